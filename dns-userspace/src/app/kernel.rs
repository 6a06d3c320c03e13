//! The programs in the kernel: the one in force, those that are being replaced, and what they counted.

use std::collections::BTreeMap;

use super::{
    attachments::Attachments,
    follow,
    totals::{Reading, Totals},
};
use crate::{
    datapath::{Datapath, DatapathError, Interface, one_line},
    discover::Selection,
    observe::{AnswersStatus, InterfaceStatus, KernelStatus, OTHER_NAMESPACES, ProgramStatus},
};

/// Everything that is loaded and attached.
pub struct Kernel {
    current: Datapath,
    /// Off every interface, its ring not yet drained to the end.
    retiring: Option<Datapath>,
    totals: Totals,
    program: Option<ProgramStatus>,
    pub attachments: Attachments,
}

impl Kernel {
    pub fn new(mut current: Datapath) -> Self {
        Self {
            program: program(&mut current),
            current,
            retiring: None,
            totals: Totals::default(),
            attachments: Attachments::default(),
        }
    }

    /// The program in force, and the interfaces it is meant for.
    pub fn parts(&mut self) -> (&mut Datapath, &mut Attachments) {
        (&mut self.current, &mut self.attachments)
    }

    /// Puts another program in force, on each interface in one step. [`Kernel::retire`] follows, once the ring of the
    /// one before is empty. Where that cannot be done the one before goes on everywhere, and the other comes back.
    pub fn replace(
        &mut self,
        mut next: Datapath,
        selection: &Selection,
    ) -> Result<(), Box<(Datapath, DatapathError)>> {
        let is_wanted = |interface: &Interface| selection.may_want(&interface.name);
        let failed = match next.adopt(&mut self.current, is_wanted) {
            Ok(failed) => failed,
            Err(error) => return Err(Box::new((next, error))),
        };
        self.program = program(&mut next);
        for (interface, error) in failed {
            let error = one_line(&error);
            tracing::warn!(
                interface = interface.name,
                error,
                "lost the program on reload; will try again"
            );
            self.attachments.lost(&interface, error);
        }
        self.retire();
        self.retiring = Some(std::mem::replace(&mut self.current, next));
        Ok(())
    }

    /// Lets the program in force steer TCP, in the place of the one before.
    pub fn steer(&mut self) -> Result<(), DatapathError> {
        self.current.attach_steering(self.retiring.as_mut())
    }

    /// Lets go of the program that was replaced; what it counted is kept.
    pub fn retire(&mut self) {
        if let Some(old) = self.retiring.take() {
            self.totals.retire(&reading(&old));
        }
    }

    /// Takes the program off every interface.
    pub fn detach_all(&mut self) {
        self.current.detach_all();
    }

    /// The wanted interfaces, for `gregor status`.
    pub fn interfaces(&self) -> Vec<InterfaceStatus> {
        let mut interfaces = self.attachments.status();
        for interface in &mut interfaces {
            let mode = self.current.mode(interface.index);
            interface.mode = mode.map(|mode| mode.name().to_owned());
        }
        interfaces
    }

    /// Somebody watches what the program decides.
    pub fn listen(&self) {
        self.current.switch().listen_for(follow::VALID);
    }

    pub fn status(&self) -> KernelStatus {
        let running: Vec<Reading> = std::iter::once(&self.current)
            .chain(&self.retiring)
            .map(reading)
            .collect();
        let sum = self.totals.with(&running);
        let sizes = self.current.answers().sizes();
        KernelStatus {
            requests: KernelStatus::requests(&sum.verdicts),
            answers: AnswersStatus {
                entries: sizes.answers as u64,
                no_target: sizes.absent as u64,
                unplaced: sizes.unplaced,
                refreshes: KernelStatus::refreshes(&sum.verdicts),
                rules: sum.rules,
                namespaces: sum.namespaces,
            },
            other_servers: sum
                .other_servers
                .into_iter()
                .map(|(server, count)| (server.to_string(), count))
                .collect::<BTreeMap<_, _>>(),
            program: self.program.clone(),
        }
    }
}

fn reading(datapath: &Datapath) -> Reading {
    let given = datapath.answers().given();
    let mut namespaces = given.namespaces;
    if given.other_namespaces > 0 {
        *namespaces.entry(OTHER_NAMESPACES.to_owned()).or_default() += given.other_namespaces;
    }
    let rules = datapath.rules().rules();
    Reading {
        rules: given
            .rules
            .into_iter()
            .filter_map(|(rule, count)| {
                let rule = rules.get(rule as usize)?;
                Some((rule.name().to_owned(), count))
            })
            .collect(),
        namespaces,
        verdicts: datapath.counters().unwrap_or_else(|error| {
            tracing::warn!(error = one_line(&error), "cannot read the counters");
            Vec::new()
        }),
        other_servers: datapath.other_servers().into_iter().collect(),
    }
}

fn program(datapath: &mut Datapath) -> Option<ProgramStatus> {
    match datapath.summary() {
        Ok(summary) => Some(ProgramStatus {
            id: summary.id,
            verified_instructions: summary.verified_instructions.into(),
            load_seconds: summary.load_time.as_secs_f64(),
            jited_bytes: summary.jited_bytes.into(),
            table_bytes: summary.table_bytes as u64,
        }),
        Err(error) => {
            tracing::debug!(error = one_line(&error), "no information about the program");
            None
        }
    }
}
