//! Who asks, for rules that depend on it: as the command line says, or as a running gregor knows it.

use anyhow::{Context as _, bail};

use super::Args;
use crate::{
    model::Client,
    observe::{InterfaceStatus, Status, fetch_status},
};

/// The pod that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asker {
    /// Behind "A pod".
    pub text: String,
    /// For its search list.
    pub namespace: Option<String>,
    /// `None` for one that nobody knows.
    pub client: Option<Client>,
    /// Why nobody knows it, where that was looked for.
    pub unknown: Option<String>,
}

/// By `--pod` or `--interface` the one that the running gregor knows, else the one that `--namespace` and `--label` describe.
pub(super) fn find(args: &Args) -> anyhow::Result<Asker> {
    if args.pod.is_none() && args.interface.is_none() {
        return Ok(described(args));
    }
    let status = crate::cli::block_on(async {
        fetch_status(&args.control)
            .await
            .context("who the pods are is asked of a running gregor")
    })?;
    match (&args.pod, &args.interface) {
        (Some(pod), _) => by_pod(&status, pod),
        (None, Some(name)) => by_interface(&status, name),
        (None, None) => Ok(described(args)),
    }
}

fn described(args: &Args) -> Asker {
    let namespace = args.namespace.clone();
    Asker {
        text: namespace
            .as_ref()
            .map(|namespace| format!(" in namespace {namespace}"))
            .unwrap_or_default(),
        client: namespace.clone().map(|namespace| Client {
            namespace,
            labels: args.labels.iter().cloned().collect(),
            ..Client::default()
        }),
        namespace,
        unknown: None,
    }
}

fn by_pod(status: &Status, pod: &str) -> anyhow::Result<Asker> {
    let Some((namespace, name)) = pod.split_once('/') else {
        bail!("{pod} is no pod; write it as NAMESPACE/NAME");
    };
    let is_it = |interface: &&InterfaceStatus| {
        let who = interface.who.as_ref();
        who.is_some_and(|who| who.namespace == namespace && who.pod == name)
    };
    match status.interfaces.iter().find(is_it) {
        Some(interface) => Ok(known(interface)),
        None => bail!(
            "gregor knows no interface of {pod} on this node; `gregor status` shows who is behind each"
        ),
    }
}

fn by_interface(status: &Status, name: &str) -> anyhow::Result<Asker> {
    let mut interfaces = status.interfaces.iter();
    match interfaces.find(|interface| interface.name == name) {
        Some(interface) => Ok(known(interface)),
        None => bail!("gregor is not attached to {name}; `gregor status` shows where it is"),
    }
}

fn known(interface: &InterfaceStatus) -> Asker {
    let Some(who) = &interface.who else {
        let no_source = "no source of identity is configured".to_owned();
        return Asker {
            text: format!(" behind {}", interface.name),
            unknown: Some(interface.nobody.clone().unwrap_or(no_source)),
            ..Asker::default()
        };
    };
    Asker {
        text: format!(
            " {}/{} behind {} (by {})",
            who.namespace, who.pod, interface.name, who.source
        ),
        namespace: Some(who.namespace.clone()),
        client: Some(Client {
            namespace: who.namespace.clone(),
            labels: who.labels.clone().unwrap_or_default(),
            ..Client::default()
        }),
        unknown: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::WhoStatus;

    fn status() -> Status {
        let known = InterfaceStatus {
            name: "veth1".to_owned(),
            who: Some(WhoStatus {
                namespace: "foo".to_owned(),
                pod: "web-0".to_owned(),
                source: "cni".to_owned(),
                labels: Some([("tier".to_owned(), "gold".to_owned())].into()),
                ..WhoStatus::default()
            }),
            ..InterfaceStatus::default()
        };
        let unknown = InterfaceStatus {
            name: "veth2".to_owned(),
            nobody: Some("several pods claim it".to_owned()),
            ..InterfaceStatus::default()
        };
        Status {
            interfaces: vec![known, unknown],
            ..Status::default()
        }
    }

    #[test]
    fn a_pod_is_found_by_its_name_and_by_its_interface() {
        let by_name = by_pod(&status(), "foo/web-0").unwrap();
        assert_eq!(by_name, by_interface(&status(), "veth1").unwrap());
        assert_eq!(by_name.text, " foo/web-0 behind veth1 (by cni)");
        let client = by_name.client.unwrap();
        assert_eq!((client.namespace.as_str(), client.labels.len()), ("foo", 1));
    }

    #[test]
    fn what_is_not_there_or_not_known_is_said() {
        assert!(by_pod(&status(), "foo/web-1").is_err());
        assert!(by_pod(&status(), "web-0").is_err());
        assert!(by_interface(&status(), "veth3").is_err());
        let unknown = by_interface(&status(), "veth2").unwrap();
        assert_eq!(unknown.client, None);
        assert_eq!(unknown.unknown.as_deref(), Some("several pods claim it"));
    }
}
