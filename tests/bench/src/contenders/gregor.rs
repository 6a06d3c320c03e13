//! gregor in front of the caches of this directory: with answers from the kernel, and with its responder only.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;
use gregor_lab::{
    gregor_toml,
    world::{CLUSTER_DNS_V4, NODE_LOCAL_V4},
};

use super::{
    Contender, Needs, Testbed,
    coredns::{self, Kind},
    testbed::takes,
};

/// How gregor is configured, beyond the rule of the article.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Every answer by the responder.
    pub responder_only: bool,
    /// The only interface that it attaches to, if not to all.
    pub interface: Option<String>,
    /// Rules besides the one of the article, as TOML.
    pub rules: String,
    /// TTL of the article's rule, if not the article's, and how long an answer is kept.
    pub ttl: Option<u32>,
    /// Limit of answers, if not the default.
    pub answers: Option<usize>,
}

impl Setup {
    /// Without a limit on how much a pod may ask, which is what is measured.
    pub fn config(&self) -> String {
        let servers: [IpAddr; 2] = [NODE_LOCAL_V4.into(), CLUSTER_DNS_V4.into()];
        let mut text = gregor_toml(&servers, self.ttl.unwrap_or(60));
        if let Some(interface) = &self.interface {
            let section = format!("[intercept]\ninterfaces = [\"{interface}\"]\n");
            text = text.replacen("[intercept]\n", &section, 1);
        }
        text.push_str(&self.rules);
        text.push_str("\n[limits]\nqueries_per_second = 0\n");
        if let Some(answers) = self.answers {
            let _ = writeln!(text, "answers = {answers}");
        }
        let mut answer = String::from("\n[answer]\n");
        if let Some(ttl) = self.ttl {
            let _ = writeln!(answer, "max_ttl = \"{ttl}s\"");
        }
        if self.responder_only {
            let off = format!("{text}{answer}kernel = false\n");
            // A version without the key has only its responder.
            if takes(&off).is_ok() {
                return off;
            }
        }
        text.push_str(&answer);
        text
    }
}

pub struct Gregor {
    id: &'static str,
    title: &'static str,
    cache: Kind,
    responder_only: bool,
}

pub const OVER_COREDNS: Gregor = Gregor {
    id: super::GREGOR_COREDNS,
    title: "gregor over plain CoreDNS",
    cache: Kind::Plain,
    responder_only: false,
};

pub const OVER_NODELOCAL: Gregor = Gregor {
    id: super::GREGOR_NODELOCAL,
    title: "gregor over NodeLocal",
    cache: Kind::NodeLocal,
    responder_only: false,
};

pub const RESPONDER: Gregor = Gregor {
    id: super::RESPONDER,
    title: "gregor, responder only",
    cache: Kind::NodeLocal,
    responder_only: true,
};

impl Gregor {
    fn setup(&self) -> Setup {
        Setup {
            responder_only: self.responder_only,
            ..Setup::default()
        }
    }
}

impl Contender for Gregor {
    fn id(&self) -> &'static str {
        self.id
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn about(&self) -> String {
        format!(
            "gregor attached to each veth of that node, with this configuration:\n{}",
            self.setup().config()
        )
    }

    fn start(&self, needs: &Needs) -> Result<Testbed> {
        let mut testbed = Testbed::new(needs)?;
        coredns::start(&mut testbed, self.cache, needs)?;
        testbed.start_gregor(&self.setup().config())?;
        Ok(testbed)
    }
}
