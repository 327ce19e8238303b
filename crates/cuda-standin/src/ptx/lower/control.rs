//! Branches, calls and returns.

use super::symbols::RETURN_LABEL;
use super::{Lower, Lowered, operands};
use crate::ptx::program::Op;
use crate::ptx::syntax::{Instruction, Operand};

impl Lower<'_> {
    /// The scopes in which a label is looked for, the innermost last.
    fn label_scopes(&self) -> Vec<usize> {
        let call = self.scopes.iter().rposition(|scope| scope.is_call).unwrap_or(0);
        self.scopes[call..].iter().map(|scope| scope.id).collect()
    }

    fn branch_to(&mut self, label: &str) {
        let scopes = self.label_scopes();
        self.branches.push((self.program.code.len(), 0, scopes, label.to_owned()));
        self.emit(Op::Branch { target: 0 });
    }

    pub(super) fn branch(&mut self, it: &Instruction) -> Lowered<()> {
        let [Operand::Name(label)] = operands(it)? else { return Err("a label is expected".to_owned()) };
        self.branch_to(label);
        Ok(())
    }

    pub(super) fn branch_indexed(&mut self, it: &Instruction) -> Lowered<()> {
        let [index, Operand::Name(list)] = operands(it)? else { return Err("a list is expected".to_owned()) };
        let index = self.source(index, false)?;
        let labels = self.targets.get(&(self.calls.len(), list.clone())).cloned().ok_or("the list is not declared")?;
        for (nth, label) in labels.iter().enumerate() {
            let scopes = self.label_scopes();
            self.branches.push((self.program.code.len(), nth, scopes, label.clone()));
        }
        self.emit(Op::BranchIndexed { index, targets: vec![0; labels.len()] });
        Ok(())
    }

    /// The end of a thread, or of an inlined function.
    pub(super) fn ret(&mut self) {
        if self.calls.len() > 1 {
            self.branch_to(RETURN_LABEL);
        } else {
            self.emit(Op::Exit);
        }
    }

    /// The name of the function that is called.
    pub(super) fn callee(&mut self, it: &Instruction) -> Lowered<String> {
        let name =
            it.operands.iter().find_map(|operand| if let Operand::Name(name) = operand { Some(name) } else { None });
        name.cloned().ok_or_else(|| "a call through a register".to_owned())
    }
}
