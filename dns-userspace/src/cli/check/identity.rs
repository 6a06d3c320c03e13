//! Whether the sources of identity can be read, and what is behind the interfaces.

use std::{fs, io, path::Path};

use super::finding::Finding;
use crate::{
    app::settings::Settings,
    config::{self, load_pods},
    discover::{Selection, present},
    identity::{Inside, Peer, folder_error},
    model::IdentitySource,
    rules::Rule,
};

const WHAT: &str = "identity";

/// A finding for each source, and one for what is behind the interfaces.
pub async fn look(settings: &Settings) -> Vec<Finding> {
    let mut findings = sources(&settings.identity, &settings.selection).await;
    findings.extend(protection(settings));
    findings
}

/// What `protect_targets` means, where it is on and there is something to protect.
fn protection(settings: &Settings) -> Option<Finding> {
    let patterns: Vec<&str> = settings.rules.protected().map(Rule::pattern).collect();
    if patterns.is_empty() {
        return None;
    }
    Some(Finding::ok(
        WHAT,
        format!(
            "protect_targets: {} is refused to pods that are not known to be in that namespace",
            patterns.join(", ")
        ),
    ))
}

async fn sources(config: &config::Identity, selection: &Selection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &config.sources {
        findings.push(match source {
            IdentitySource::Cni => results(&config.cni_results),
            IdentitySource::File => match &config.file {
                Some(file) => pods(file),
                None => continue,
            },
            IdentitySource::Kubernetes => api().await,
        });
    }
    if !config.sources.is_empty() {
        findings.push(inside(selection).await);
    }
    findings
}

fn results(folder: &Path) -> Finding {
    let path = folder.display();
    if let Some(error) = folder_error(folder) {
        return Finding::error(
            WHAT,
            format!("cni: {error}"),
            "set [identity] cni_results to the folder of libcni's results, or mount that",
        );
    }
    match fs::read_dir(folder) {
        Ok(entries) => Finding::ok(WHAT, format!("cni: {path} has {} files", entries.count())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::warning(
            WHAT,
            format!("cni: {path} is not there"),
            "it is made with the first pod; if pods run here, set [identity] cni_results, or mount that folder",
        ),
        Err(error) => Finding::error(
            WHAT,
            format!("cni: {path} cannot be read: {error}"),
            "run as root: the folder is root's",
        ),
    }
}

fn pods(file: &Path) -> Finding {
    match load_pods(file) {
        Ok(entries) => Finding::ok(
            WHAT,
            format!("file: {} has {} pods", file.display(), entries.len()),
        ),
        Err(error) => Finding::error(
            WHAT,
            format!("file: {error}"),
            "correct it: nobody is known by a file that is refused",
        ),
    }
}

#[cfg(feature = "kubernetes")]
async fn api() -> Finding {
    use k8s_openapi::api::core::v1;
    use kube::{Api, api::ListParams};

    use crate::{app::state::node, identity::pods, sources::client};

    const ROLE: &str =
        "the role of the chart lists and watches pods where identity.sources has kubernetes";
    if !client::is_in_cluster() {
        return Finding::warning(
            WHAT,
            "kubernetes: not in a cluster",
            "run it in a pod of the chart",
        );
    }
    let node = node();
    let listed = async {
        let api = Api::<v1::Pod>::all(client::in_cluster()?);
        let parameters = ListParams::default().fields(&pods::fields(&node));
        anyhow::Ok(api.list(&parameters).await?.items.len())
    };
    match tokio::time::timeout(PATIENCE, listed).await {
        Ok(Ok(count)) => Finding::ok(WHAT, format!("kubernetes: {count} pods on {node}")),
        Ok(Err(error)) => Finding::error(WHAT, format!("kubernetes: {error:#}"), ROLE),
        Err(_) => Finding::error(WHAT, "kubernetes: the API server is silent", ROLE),
    }
}

#[cfg(feature = "kubernetes")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(not(feature = "kubernetes"))]
async fn api() -> Finding {
    Finding::error(
        WHAT,
        "kubernetes: this gregor is built without it",
        "build it with --features kubernetes, or take the source out of [identity] sources",
    )
}

/// Whether what is behind the present interfaces can be read.
async fn inside(selection: &Selection) -> Finding {
    const REMEDY: &str = "run with CAP_NET_ADMIN in the node's network and user namespace";
    let interfaces = present(selection).await.unwrap_or_default();
    let inside = match Inside::open() {
        Ok(inside) => inside,
        Err(error) => return Finding::error(WHAT, format!("rtnetlink: {error}"), REMEDY),
    };
    let mut read = 0;
    let mut unreadable = Vec::new();
    for interface in &interfaces {
        match inside.look(interface.index) {
            Ok(Some(look)) if look.peer == Peer::Unreadable => {
                unreadable.push(interface.name.as_str());
            }
            Ok(_) => read += 1,
            Err(_) => unreadable.push(interface.name.as_str()),
        }
    }
    if unreadable.is_empty() {
        Finding::ok(
            WHAT,
            format!("what is behind {read} interfaces can be read"),
        )
    } else {
        Finding::error(
            WHAT,
            format!(
                "what is behind these cannot be read: {}",
                unreadable.join(", ")
            ),
            REMEDY,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;

    #[tokio::test]
    async fn sources_that_cannot_be_read_are_named() {
        let selection = Selection::new(&["nothing-like-this"]).unwrap();
        let config = config::Identity {
            sources: vec![IdentitySource::Cni, IdentitySource::File],
            cni_results: "/nowhere/results".into(),
            file: Some("/nowhere/pods.toml".into()),
        };
        let findings = sources(&config, &selection).await;
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Error, Level::Ok]);
        assert_eq!(results(Path::new("/dev/null")).level, Level::Error);
        // Everybody may write there.
        assert_eq!(results(Path::new("/tmp")).level, Level::Error);
        assert_eq!(results(Path::new("/etc")).level, Level::Ok);
        assert!(
            sources(&config::Identity::default(), &selection)
                .await
                .is_empty()
        );
    }
}
