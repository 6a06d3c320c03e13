//! What a query needs in order to pass the programs of an interface when it is brought back there: see
//! [`dns_common::abi::RETURNED`] and [`dns_common::abi::Trailer`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dns_common::abi::Trailer;

use super::{Hook, XdpMode};
use crate::model::Reinjection;

/// The programs of the interfaces, and the trailer of all that have the same maps.
pub(super) struct Reinjections {
    trailer: Trailer,
    programs: Mutex<Programs>,
}

struct Programs {
    /// Where the programs of interfaces belong that are not below, because one is on its way.
    hook: Hook,
    by_interface: HashMap<u32, Present>,
}

/// The programs on one interface: two for a moment, when the hook changes.
#[derive(Clone, Copy, Debug, Default)]
struct Present {
    tc: bool,
    xdp: Option<XdpMode>,
}

impl Present {
    fn add(&mut self, mode: Option<XdpMode>) {
        match mode {
            Some(mode) => self.xdp = Some(mode),
            None => self.tc = true,
        }
    }
}

impl Reinjections {
    pub fn new(trailer: Trailer, hook: Hook) -> Self {
        Self {
            trailer,
            programs: Mutex::new(Programs {
                hook,
                by_interface: HashMap::new(),
            }),
        }
    }

    pub fn trailer(&self) -> Trailer {
        self.trailer
    }

    /// An interface has a program; `None` for one on a TC hook. One on another hook may be there still.
    pub fn attached(&self, index: u32, mode: Option<XdpMode>) {
        self.lock().by_interface.entry(index).or_default().add(mode);
    }

    /// An interface has no program any more.
    pub fn detached(&self, index: u32) {
        self.lock().by_interface.remove(&index);
    }

    /// The interfaces have these programs and no others.
    pub fn replace(&self, hook: Hook, programs: impl Iterator<Item = (u32, Option<XdpMode>)>) {
        let by_interface = programs.map(|(index, mode)| {
            let mut present = Present::default();
            present.add(mode);
            (index, present)
        });
        *self.lock() = Programs {
            hook,
            by_interface: by_interface.collect(),
        };
    }

    /// What a query needs that goes back to an interface now.
    pub fn reinjection(&self, index: u32) -> Reinjection {
        let programs = self.lock();
        let is_xdp = programs.hook == Hook::Xdp;
        // Without a trailer a query would go in circles where one is needed; with one it is longer where none is.
        let on_its_way = Present {
            tc: !is_xdp,
            xdp: is_xdp.then_some(XdpMode::Generic),
        };
        let present = programs.by_interface.get(&index);
        let present = present.copied().unwrap_or(on_its_way);
        Reinjection {
            keeps_tc_index: !present.tc,
            trailer: (present.xdp == Some(XdpMode::Generic)).then(|| {
                let mut bytes = [0; size_of::<Trailer>()];
                bytes[..8].copy_from_slice(&self.trailer[0].to_ne_bytes());
                bytes[8..].copy_from_slice(&self.trailer[1].to_ne_bytes());
                bytes
            }),
        }
    }

    /// A panic while it was held leaves a map that is right as it is.
    fn lock(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a query for each of these interfaces has a trailer, and whether it keeps its `tc_index`.
    fn needs(reinjections: &Reinjections, indexes: [u32; 4]) -> [(bool, bool); 4] {
        indexes.map(|index| {
            let needs = reinjections.reinjection(index);
            (needs.trailer.is_some(), needs.keeps_tc_index)
        })
    }

    #[test]
    fn a_query_is_recognised_by_every_program_that_may_be_there() {
        const TC: (bool, bool) = (false, false);
        const NATIVE: (bool, bool) = (false, true);
        const GENERIC: (bool, bool) = (true, true);
        const GENERIC_AND_TC: (bool, bool) = (true, false);

        let reinjections = Reinjections::new([1, 2], Hook::Xdp);
        let interfaces = [1, 2, 3, 4];
        assert_eq!(needs(&reinjections, interfaces), [GENERIC; 4]);
        reinjections.attached(1, Some(XdpMode::Generic));
        reinjections.attached(2, Some(XdpMode::Native));
        let on_xdp = [GENERIC, NATIVE, GENERIC, GENERIC];
        assert_eq!(needs(&reinjections, interfaces), on_xdp);

        // From XDP to tcx: both are there until the old ones are gone.
        for index in [1, 2, 3] {
            reinjections.attached(index, None);
        }
        let on_both = [GENERIC_AND_TC, TC, TC, GENERIC];
        assert_eq!(needs(&reinjections, interfaces), on_both);
        reinjections.replace(Hook::Tcx, [1, 2, 3].map(|index| (index, None)).into_iter());
        assert_eq!(needs(&reinjections, interfaces), [TC; 4]);

        reinjections.attached(1, Some(XdpMode::Generic));
        reinjections.detached(1);
        assert_eq!(needs(&reinjections, interfaces), [TC; 4]);
    }

    #[test]
    fn a_trailer_is_that_of_the_programs() {
        let reinjections = Reinjections::new([u64::from_ne_bytes(*b"01234567"), 0], Hook::Xdp);
        let trailer = reinjections.reinjection(1).trailer;
        assert_eq!(trailer, Some(*b"01234567\0\0\0\0\0\0\0\0"));
    }
}
