//! Learns the addresses of the cluster DNS's Services from the API server.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use tokio::{sync::watch as latest, time::timeout};

use super::{LABEL, NAMESPACE, Source};
use crate::sources::{
    ErrorReason,
    watch::{Query, Said, Sink, watch},
};

/// For one list.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches for as long as it is polled, and keeps `source` up to date.
pub async fn follow(client: Client, source: latest::Sender<Source>) {
    let query = Query {
        api: Api::namespaced(client, NAMESPACE),
        fields: String::new(),
        labels: LABEL.to_owned(),
        name: "the cluster DNS's Services".to_owned(),
        otherwise: "the servers that are known stay",
    };
    let known = Known {
        services: Mutex::default(),
        source,
    };
    watch(query, known).await;
}

/// Asks once.
pub async fn ask(client: Client) -> Result<Vec<IpAddr>, String> {
    let api = Api::<Service>::namespaced(client, NAMESPACE);
    let parameters = ListParams::default().labels(LABEL);
    let list = timeout(PATIENCE, api.list(&parameters)).await;
    let list = list
        .map_err(|_| "the API server is silent".to_owned())?
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    Ok(list.items.iter().flat_map(addresses).collect())
}

/// What is known of the Services, by their names.
struct Known {
    services: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    source: latest::Sender<Source>,
}

impl Sink<Service> for Known {
    fn said(&self, said: Said<Service>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Said::Listed(all) => {
                *services = all
                    .iter()
                    .map(|service| (service.name_any(), addresses(service)))
                    .collect();
            }
            Said::Applied(service) => {
                services.insert(service.name_any(), addresses(&service));
            }
            Said::Deleted(service) => {
                services.remove(&service.name_any());
            }
            Said::Nothing => {}
        }
        let servers: Vec<IpAddr> = services.values().flatten().copied().collect();
        self.source.send_if_modified(|source| {
            let before = source.clone();
            source.take(Ok(servers));
            *source != before
        });
    }

    fn failed(&self, _: ErrorReason, error: &str) {
        self.source.send_if_modified(|source| {
            let before = source.clone();
            source.take(Err(error.to_owned()));
            *source != before
        });
    }
}

/// Those of both families; none for a headless Service.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;
    use kube::core::ObjectMeta;

    use super::*;

    fn service(name: &str, addresses: &[&str]) -> Service {
        let texts: Vec<String> = addresses.iter().map(|&text| text.to_owned()).collect();
        Service {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: texts.first().cloned(),
                cluster_ips: Some(texts),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    #[test]
    fn a_service_that_is_made_anew_has_its_new_address_and_until_then_the_old_one() {
        let (source, said) = latest::channel(Source::services("not heard yet"));
        let known = Known {
            services: Mutex::default(),
            source,
        };
        let servers = || {
            let texts = said
                .borrow()
                .servers
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            texts.join(" ")
        };
        known.failed(ErrorReason::Forbidden, "no role");
        assert_eq!(said.borrow().error.as_deref(), Some("no role"));
        known.said(Said::Listed(vec![
            service("kube-dns", &["10.96.0.10", "fd00::a"]),
            service("node-local-dns", &["None"]),
        ]));
        assert_eq!(
            (servers().as_str(), said.borrow().error.is_none()),
            ("10.96.0.10 fd00::a", true)
        );
        known.said(Said::Deleted(service("kube-dns", &[])));
        assert_eq!(servers(), "10.96.0.10 fd00::a");
        known.failed(ErrorReason::Connection, "refused");
        assert_eq!(servers(), "10.96.0.10 fd00::a");
        known.said(Said::Applied(service("kube-dns", &["10.96.0.11"])));
        assert_eq!(
            (servers().as_str(), said.borrow().error.is_none()),
            ("10.96.0.11", true)
        );
    }
}
