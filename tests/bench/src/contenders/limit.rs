//! The limits: programs that drop every query, or answer each with one fixed record and look at nothing else.

use anyhow::Result;

use super::{Contender, Needs, Testbed};

pub struct Limit {
    id: &'static str,
    title: &'static str,
    about: &'static str,
    program: &'static str,
}

pub const DISCARD: Limit = Limit {
    id: super::DISCARD,
    title: "dropping program",
    about: "A TC program on the node's end of each veth that drops every packet.",
    program: "discard",
};

pub const REFLECTOR: Limit = Limit {
    id: super::REFLECTOR,
    title: "fixed-answer program",
    about: "A TC program on the node's end of each veth that answers every IPv4 query with one fixed A record.",
    program: "reflect",
};

pub const REFLECTOR_LONG: Limit = Limit {
    id: super::REFLECTOR_LONG,
    title: "fixed-answer program, long",
    about: "The same with twelve A records, 192 bytes: as many as a tenant's usual answer has.",
    program: "reflect_whole",
};

impl Contender for Limit {
    fn id(&self) -> &'static str {
        self.id
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn about(&self) -> String {
        self.about.to_owned()
    }

    fn start(&self, needs: &Needs) -> Result<Testbed> {
        let mut testbed = Testbed::new(needs)?;
        testbed.attach_for_good(self.program)?;
        Ok(testbed)
    }
}
