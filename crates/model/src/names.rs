//! Under which names a checkpoint stores the model's tensors.

use crate::tensors::spec;
use crate::{FalconConfig, Part, Role, TensorId, tensors};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What training tools put before every name, one behind the other: `DataParallel`, `torch.compile`, PEFT, and wrappers that
/// call what they hold `model`.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "base_model.model.", "model."];
/// What stands before the names of all tensors but `lm_head` where the model was saved with its head.
const BODY: &str = "transformer.";
/// The last part of the names of buffers, which are computed from the config.
const BUFFERS: [&str; 5] = ["inv_freq", "cos_cached", "sin_cached", "masked_bias", "maskd_bias"];
const EMBEDDINGS: &str = "word_embeddings.weight";

/// Which stored name holds which tensor, in a checkpoint whose tensors are exactly those of the model.
#[derive(Clone, Debug)]
pub struct TensorNames {
    names: HashMap<TensorId, String>,
    stored_head: Option<String>,
    buffers: usize,
}

/// Why a checkpoint's tensors are not those of the model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum NamesError {
    /// The model needs a tensor that the checkpoint lacks.
    #[error("tensor `{name}` (shape {expected:?}) is missing")]
    Missing {
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// The checkpoint holds a tensor for which the shard table has no line.
    #[error("unknown tensor `{name}` (shape {found:?}): no Falcon model with this config.json has it")]
    Unknown { name: String, found: Vec<usize> },
    /// A tensor does not have the shape that the config gives.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}")]
    Shape {
        name: String,
        /// The shape that the config gives.
        expected: Vec<usize>,
        /// The shape that it has.
        found: Vec<usize>,
    },
    /// Something stands before the names that is not known.
    #[error(
        "the tensors' names begin with `{prefix}`, as in `{name}`; expected `transformer.`, or nothing, behind none, one or \
         several of `module.`, `_orig_mod.`, `base_model.model.` and `model.`: rename the tensors"
    )]
    UnknownPrefix { prefix: String, name: String },
    /// The names do not all have the same prefix.
    #[error(
        "the tensors' names begin in different ways: {found}; expected the same prefix before all: rename the tensors"
    )]
    MixedPrefixes {
        /// Each prefix, with one name that has it.
        found: String,
    },
}

/// A stored name in its parts.
struct Split<'a> {
    wrapper: &'a str,
    has_body: bool,
    bare: &'a str,
}

impl<'a> Split<'a> {
    fn of(name: &'a str) -> Self {
        let mut rest = name;
        while let Some(behind) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            rest = behind;
        }
        let wrapper = &name[..name.len() - rest.len()];
        let bare = rest.strip_prefix(BODY);
        Self { wrapper, has_body: bare.is_some(), bare: bare.unwrap_or(rest) }
    }
}

/// The prefix of all names of a checkpoint.
struct Prefix {
    wrapper: String,
    has_body: bool,
}

impl Prefix {
    /// Of the `stored` names that are those of one of `specs` behind some prefix.
    fn find(stored: &BTreeMap<&str, &[usize]>, is_bare_name: impl Fn(&str) -> bool) -> Result<Self, NamesError> {
        let head = TensorId::LM_HEAD.to_string();
        // The name of the head says nothing about whether `transformer.` stands before the others.
        let (mut bodies, mut heads) = (BTreeMap::new(), BTreeMap::new());
        for &name in stored.keys() {
            let split = Split::of(name);
            if split.bare == head && !split.has_body {
                heads.entry(split.wrapper).or_insert(name);
            } else if is_bare_name(split.bare) {
                bodies.entry((split.wrapper, split.has_body)).or_insert(name);
            }
        }
        let wrapper_of =
            |bodies: &BTreeMap<(&str, bool), &str>| bodies.keys().next().map(|(wrapper, _)| (*wrapper).to_owned());
        match (bodies.len(), heads.len()) {
            (0, _) => match stored.keys().find_map(|name| Some((name.strip_suffix(EMBEDDINGS)?, *name))) {
                Some((prefix, name)) if !prefix.is_empty() => {
                    Err(NamesError::UnknownPrefix { prefix: prefix.to_owned(), name: name.to_owned() })
                }
                _ => Ok(Self { wrapper: String::new(), has_body: true }),
            },
            (1, 0 | 1) if heads.keys().all(|wrapper| Some(*wrapper) == wrapper_of(&bodies).as_deref()) => {
                let (wrapper, has_body) = *bodies.keys().next().expect("there is one");
                Ok(Self { wrapper: wrapper.to_owned(), has_body })
            }
            _ => {
                let bodies = bodies.iter().map(|((wrapper, has_body), name)| {
                    (format!("{wrapper}{}", if *has_body { BODY } else { "" }), *name)
                });
                let heads = heads.iter().map(|(wrapper, name)| ((*wrapper).to_owned(), *name));
                let found = bodies.chain(heads).map(|(prefix, name)| match &*prefix {
                    "" => format!("no prefix (`{name}`)"),
                    _ => format!("`{prefix}` (`{name}`)"),
                });
                Err(NamesError::MixedPrefixes { found: found.collect::<Vec<_>>().join(", ") })
            }
        }
    }

    /// The name under which the checkpoint would store a tensor.
    fn name(&self, id: TensorId) -> String {
        let name = id.to_string();
        let name = if self.has_body { &name } else { name.strip_prefix(BODY).unwrap_or(&name) };
        format!("{}{name}", self.wrapper)
    }
}

impl TensorNames {
    /// Those of Hugging Face's own checkpoints.
    #[must_use]
    pub fn of(config: &FalconConfig) -> Self {
        let names = tensors(config).into_iter().map(|spec| (spec.id, spec.id.to_string())).collect();
        Self { names, stored_head: None, buffers: 0 }
    }

    /// Holds the `stored` tensors (name and shape) against those that the model has: each must be there once, in its
    /// shape, and nothing else but buffers that are computed. One prefix may stand before all names. With tied
    /// embeddings the table may be stored under either name, or under both: see [`Self::stored_head`].
    ///
    /// # Errors
    ///
    /// The first tensor that is missing, unknown, or of the wrong shape; names with different prefixes.
    pub fn find<'a>(
        config: &FalconConfig,
        stored: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<Self, NamesError> {
        let mut stored: BTreeMap<&str, &[usize]> = stored.into_iter().collect();
        let all = stored.len();
        stored.retain(|name, _| !is_buffer(name));
        let buffers = all - stored.len();
        let specs = tensors(config);
        let bare: Vec<String> =
            specs.iter().map(|spec| spec.id.to_string().trim_start_matches(BODY).to_owned()).collect();
        let bare: HashSet<&str> = bare.iter().map(String::as_str).collect();
        let prefix = Prefix::find(&stored, |name| bare.contains(name))?;
        let mut names = HashMap::new();
        let head = spec(config, None, Role::LmHead, Part::Weight);
        let head_name = prefix.name(head.id);
        for tensor in specs {
            let name = prefix.name(tensor.id);
            let alias = (config.tied && tensor.id.role == Role::WordEmbeddings).then(|| head_name.clone());
            let found = [Some(name.clone()), alias].into_iter().flatten().find(|name| stored.contains_key(&**name));
            let Some(found) = found else {
                return Err(NamesError::Missing { name, expected: tensor.shape });
            };
            take(&mut stored, &found, &tensor.shape)?;
            names.insert(tensor.id, found);
        }
        let stored_head = (config.tied && stored.contains_key(&*head_name)).then_some(head_name);
        if let Some(name) = &stored_head {
            take(&mut stored, name, &head.shape)?;
        }
        match stored.into_iter().next() {
            Some((name, found)) => Err(NamesError::Unknown { name: name.to_owned(), found: found.to_vec() }),
            None => Ok(Self { names, stored_head, buffers }),
        }
    }

    /// The name under which the checkpoint stores a tensor.
    ///
    /// # Panics
    ///
    /// If the model has no such tensor.
    #[must_use]
    pub fn name(&self, id: TensorId) -> &str {
        self.names.get(&id).unwrap_or_else(|| panic!("{id} is not a tensor of this model"))
    }

    /// The name of an output projection that is stored beside the embedding table although the config ties the two.
    #[must_use]
    pub fn stored_head(&self) -> Option<&str> {
        self.stored_head.as_deref()
    }

    /// Takes the [stored head](Self::stored_head) for the output projection, for a config that is not tied.
    pub fn untie(&mut self) {
        if let Some(head) = self.stored_head.take() {
            self.names.insert(TensorId::LM_HEAD, head);
        }
    }

    /// How many buffers are stored, of which nothing is read: they are computed from the config.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.buffers
    }

    /// Whether a checkpoint of the model may lack the tensor of this name, whatever its index says: a buffer, or the output
    /// projection where it is tied.
    #[must_use]
    pub fn may_be_absent(config: &FalconConfig, name: &str) -> bool {
        is_buffer(name) || config.tied && Split::of(name).bare == TensorId::LM_HEAD.to_string()
    }
}

fn is_buffer(name: &str) -> bool {
    BUFFERS.contains(&name.rsplit('.').next().unwrap_or(name))
}

fn take(stored: &mut BTreeMap<&str, &[usize]>, name: &str, expected: &[usize]) -> Result<(), NamesError> {
    match stored.remove(name) {
        Some(found) if found == expected => Ok(()),
        Some(found) => {
            Err(NamesError::Shape { name: name.to_owned(), expected: expected.to_vec(), found: found.to_vec() })
        }
        None => Err(NamesError::Missing { name: name.to_owned(), expected: expected.to_vec() }),
    }
}
