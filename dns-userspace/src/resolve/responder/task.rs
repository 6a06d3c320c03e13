//! The task of one look-up: asks the source, and reports the outcome to the engine.

use std::sync::Arc;

use super::Responder;
use crate::{
    inject::Inject,
    resolve::{
        engine::{Event, LookUp},
        source::TargetSource,
    },
};

/// A look-up in flight. Dropping it answers all queries that wait for it, so that none waits for ever.
pub(super) struct Task<S: TargetSource, I: Inject> {
    responder: Arc<Responder<S, I>>,
    look_up: Option<LookUp>,
}

impl<S: TargetSource, I: Inject> Task<S, I> {
    pub(super) fn new(responder: Arc<Responder<S, I>>, look_up: LookUp) -> Task<S, I> {
        Task {
            responder,
            look_up: Some(look_up),
        }
    }

    pub(super) async fn run(mut self) {
        let Some(look_up) = &self.look_up else {
            return;
        };
        let source = &self.responder.source;
        let outcome = source
            .look_up(
                look_up.name(),
                look_up.qtype,
                look_up.key.upstream,
                look_up.has_address,
            )
            .await;
        if let Some(look_up) = self.look_up.take() {
            self.responder.apply(Event::LookedUp(look_up, outcome));
        }
    }
}

impl<S: TargetSource, I: Inject> Drop for Task<S, I> {
    fn drop(&mut self) {
        if let Some(look_up) = self.look_up.take() {
            self.responder.apply(Event::Abandoned(look_up));
        }
    }
}
