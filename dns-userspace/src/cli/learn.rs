//! Learns servers and namespaces once, for the commands that only look: from the kubelet, and from the running gregor or the API server.

use std::path::Path;

use crate::{
    config,
    nameservers::{Source, kubelet},
    observe::fetch_status,
    rules::selector::{self, Labelled, Labels},
};

/// What the sources of a configuration name; none where it leaves nothing to be learnt, or is wrong.
pub async fn sources(path: &Path, control: &Path) -> Vec<Source> {
    let Ok(Some(what)) = config::to_learn(path) else {
        return Vec::new();
    };
    let kubernetes = &what.kubernetes;
    let mut file = kubelet::source(&kubernetes.kubelet_config);
    file.take(kubelet::read(
        &kubernetes.kubelet_config,
        kubernetes.kubelet_config_dir.as_deref(),
    ));
    vec![file, services(&what, control).await]
}

async fn services(what: &config::ToLearn, control: &Path) -> Source {
    let mut services = Source::services("not asked");
    let running = fetch_status(control).await.ok();
    let known = running
        .into_iter()
        .flat_map(|status| status.learnt)
        .find(|source| source.name == services.name && !source.servers.is_empty());
    if let Some(known) = known {
        return known;
    }
    services.take(if what.kubernetes.watch {
        ask().await
    } else {
        Err("[kubernetes] watch = false".to_owned())
    });
    services
}

/// The namespaces that the rules of a configuration select by labels, and why some are not known.
pub async fn namespaces(path: &Path, control: &Path) -> (Labelled, Option<String>) {
    let mut labelled = Labelled::default();
    let Ok((selectors, watches)) = config::to_select(path) else {
        return (labelled, None);
    };
    if selectors.is_empty() {
        return (labelled, None);
    }
    let running = fetch_status(control).await.ok();
    let rules = running.into_iter().flat_map(|status| status.rules);
    for rule in rules {
        let selector = selectors
            .iter()
            .find(|one| rule.namespace_labels == Some(selector::text(one)));
        if let (Some(selector), Some(names)) = (selector, rule.namespaces) {
            labelled.set(selector.clone(), names.into_iter().collect());
        }
    }
    if selectors.iter().all(|one| labelled.of(one).is_some()) {
        return (labelled, None);
    }
    let asked = if watches {
        ask_namespaces(selectors).await
    } else {
        Err("[kubernetes] watch = false".to_owned())
    };
    match asked {
        Ok(all) => (all, None),
        Err(why) => (labelled, Some(why)),
    }
}

#[cfg(feature = "kubernetes")]
async fn ask_namespaces(selectors: Vec<Labels>) -> Result<Labelled, String> {
    use crate::sources::{client, namespaces};

    if !client::is_in_cluster() {
        return Err("not in a cluster".to_owned());
    }
    let client = client::in_cluster().map_err(|error| format!("{error:#}"))?;
    namespaces::ask(client, selectors).await
}

#[cfg(not(feature = "kubernetes"))]
async fn ask_namespaces(_: Vec<Labels>) -> Result<Labelled, String> {
    Err(crate::sources::NOT_BUILT.to_owned())
}

#[cfg(feature = "kubernetes")]
async fn ask() -> Result<Vec<std::net::IpAddr>, String> {
    use crate::sources::client;

    if !client::is_in_cluster() {
        return Err("not in a cluster".to_owned());
    }
    let client = client::in_cluster().map_err(|error| format!("{error:#}"))?;
    crate::nameservers::services::ask(client).await
}

#[cfg(not(feature = "kubernetes"))]
async fn ask() -> Result<Vec<std::net::IpAddr>, String> {
    Err(crate::sources::NOT_BUILT.to_owned())
}
