//! The stages of loading a program, for progress and for errors.

/// What loading is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Maps,
    Program(&'static str),
    Tables,
}

impl Stage {
    pub fn program(self) -> Option<&'static str> {
        match self {
            Stage::Program(name) => Some(name),
            Stage::Maps | Stage::Tables => None,
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Maps => f.write_str("creating maps"),
            Stage::Program(name) => write!(f, "verifying program {name}"),
            Stage::Tables => f.write_str("filling tables"),
        }
    }
}
