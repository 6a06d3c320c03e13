//! Loads as `gregor run` does, for `gregor check` as well: within a time limit, with progress messages, and with the whole log
//! of the verifier when it refuses a program.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aya::VerifierLogLevel;

use super::{
    Base, Datapath, DatapathError, LoadOptions, Refused,
    bounded::{Failure, bounded},
    load::{How, REASON, TRACE},
    object::{LOGGING_OBJECT, OBJECT},
    stage::Stage,
};

/// A refusal that came as fast as this is asked for a second time, with a trace of what the verifier walked.
const FAST: Duration = Duration::from_secs(2);
/// How long that may take: aya starts again with a larger buffer, up to ten times.
const TRACE_LIMIT: Duration = Duration::from_secs(20);

/// How to load.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The maps that it shares with others.
    pub base: Base,
    /// The program that logs what it decides.
    pub logging: bool,
    /// How long loading may take.
    pub limit: Duration,
}

impl Attempt {
    /// Loads the program and fills its tables; nothing is attached. `progress` is called after two seconds, and every ten
    /// seconds from then on.
    pub fn load(
        &self,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Stage, Duration),
    ) -> Result<Datapath, DatapathError> {
        let started = Instant::now();
        match self.load_within(self.limit, options, REASON, progress) {
            Err(DatapathError::Refused(refused))
                if !refused.log.is_empty() && refused.took < FAST =>
            {
                let limit = TRACE_LIMIT.min(self.limit.saturating_sub(started.elapsed()));
                match self.load_within(limit, options, TRACE, progress) {
                    Err(DatapathError::Refused(traced)) if traced.errno == refused.errno => {
                        Err(traced.into())
                    }
                    // Too long, or too large for the kernel to write it.
                    _ => Err(refused.into()),
                }
            }
            result => result,
        }
    }

    fn load_within(
        &self,
        limit: Duration,
        options: &LoadOptions,
        log: VerifierLogLevel,
        progress: &mut dyn FnMut(Stage, Duration),
    ) -> Result<Datapath, DatapathError> {
        let stage = Arc::new(Mutex::new(Stage::Maps));
        let now = {
            let stage = Arc::clone(&stage);
            move || *stage.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let object = if self.logging { LOGGING_OBJECT } else { OBJECT };
        let options = options.clone();
        let base = self.base.clone();
        let work = move || {
            let how = How {
                base,
                log,
                stage: &|new| *stage.lock().unwrap_or_else(PoisonError::into_inner) = new,
            };
            Datapath::load_as(&options, object, options.hook.program(), &how)
        };
        match bounded(limit, now, progress, work) {
            Ok(result) => result,
            Err(Failure::TooLong(stage)) => Err(DatapathError::TooLong {
                stage,
                limit: self.limit,
            }),
            Err(Failure::Thread) => Err(DatapathError::Thread),
        }
    }
}

/// The log of a refused program, from the error.
pub fn verifier_log(error: &DatapathError) -> Option<&Refused> {
    match error {
        DatapathError::Refused(refused) if !refused.log.is_empty() => Some(refused),
        _ => None,
    }
}
