//! Where a program gets the maps from that outlive it: new ones, pinned ones, or those of another program.

use std::sync::Arc;

use super::{pins::State, shared::Shared};

/// Where the maps come from that a program shares with others.
#[derive(Clone, Default)]
pub struct Base(pub(super) Origin);

#[derive(Clone, Default)]
pub(super) enum Origin {
    /// They are made for this program, and end with it.
    #[default]
    Private,
    /// They are pinned there, or are made and pinned.
    Pinned(State),
    /// They are those of a program of this process, which are pinned there.
    Shared(State, Arc<Shared>),
}

impl Base {
    /// Maps that outlive the process. The caller has the lock on the directory.
    pub fn pinned(state: &State) -> Self {
        Self(Origin::Pinned(state.clone()))
    }

    /// Maps of this process; private ones where they are not pinned.
    pub(super) fn shared(state: Option<&State>, maps: &Arc<Shared>) -> Self {
        Self(match state {
            Some(state) => Origin::Shared(state.clone(), Arc::clone(maps)),
            None => Origin::Private,
        })
    }

    pub(super) fn state(&self) -> Option<&State> {
        match &self.0 {
            Origin::Private => None,
            Origin::Pinned(state) | Origin::Shared(state, _) => Some(state),
        }
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Base").field(&self.state()).finish()
    }
}
