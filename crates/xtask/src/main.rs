//! Tasks of this repository: `cargo xtask COMMAND`.

#![forbid(unsafe_code)]

mod bundle;
mod goldens;
mod mutants;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

struct Command {
    name: &'static str,
    help: &'static str,
    /// Takes the repository's root and the arguments after the command's name.
    run: fn(&Path, &[String]) -> anyhow::Result<ExitCode>,
}

const COMMANDS: &[Command] = &[
    Command { name: "tidy", help: "check the repository's rules over its files", run: tidy::run },
    Command {
        name: "architecture",
        help: "write the table of crates into ARCHITECTURE.md",
        run: tidy::write_architecture,
    },
    Command { name: "goldens", help: "hold every model against every golden, in real processes", run: goldens::run },
    Command {
        name: "mutants",
        help: "plant bugs in kernels, and see that the conformance suite catches them",
        run: mutants::run,
    },
    Command { name: "gpu-bundle", help: "pack what scripts/gpu-check needs on a machine with a GPU", run: bundle::run },
];

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/xtask is two levels deep");
    let command = arguments.first().and_then(|name| COMMANDS.iter().find(|command| command.name == name));
    if let Some(command) = command {
        return (command.run)(root, &arguments[1..]);
    }
    println!("Usage: cargo xtask COMMAND\n\nCommands:");
    for command in COMMANDS {
        println!("  {:12} {}", command.name, command.help);
    }
    // No command asks for this text; an unknown one is an error.
    Ok(if arguments.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
