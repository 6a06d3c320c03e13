//! Watches the labels of namespaces at the API server, and says which have those that rules select them by.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PartialObjectMeta},
};
use tokio::{sync::watch as latest, time::timeout};

use super::{
    ErrorReason,
    labelled::{NamespaceLabels, NamespaceReport},
    selected::Selected,
    watch::{Metadata, Query, Said, Sink, watch},
};
use crate::rules::selector::{Labelled, Labels};

/// For one list.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches for as long as it is polled, and keeps `selected` up to date. Metadata alone: there is nothing else of interest.
pub async fn follow(client: Client, selectors: Vec<Labels>, selected: latest::Sender<Selected>) {
    let query = Query {
        api: Metadata(Api::<Namespace>::all(client)),
        fields: String::new(),
        labels: NamespaceLabels::query(&selectors),
        name: "namespaces".to_owned(),
        otherwise: "rules are for those that are known to have their labels, which are none before the first list",
    };
    let known = Known {
        labels: Mutex::new(NamespaceLabels::new(selectors)),
        selected,
    };
    watch(query, known).await;
}

/// Asks once.
pub async fn ask(client: Client, selectors: Vec<Labels>) -> Result<Labelled, String> {
    let mut parameters = ListParams::default();
    let query = NamespaceLabels::query(&selectors);
    if !query.is_empty() {
        parameters = parameters.labels(&query);
    }
    let api = Api::<Namespace>::all(client);
    let list = timeout(PATIENCE, api.list_metadata(&parameters)).await;
    let list = list
        .map_err(|_| "the API server is silent".to_owned())?
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let all = list.items.iter().map(read).collect();
    let labelled = NamespaceLabels::new(selectors).take(NamespaceReport::Listed(all));
    Ok(labelled.unwrap_or_default())
}

struct Known {
    labels: Mutex<NamespaceLabels>,
    selected: latest::Sender<Selected>,
}

type Meta = PartialObjectMeta<Namespace>;

fn read(namespace: &Meta) -> (String, std::collections::BTreeMap<String, String>) {
    (namespace.name_any(), namespace.labels().clone())
}

impl Sink<Meta> for Known {
    fn said(&self, said: Said<Meta>) {
        let report = match said {
            Said::Listed(all) => Some(NamespaceReport::Listed(all.iter().map(read).collect())),
            Said::Applied(one) => {
                let (name, labels) = read(&one);
                Some(NamespaceReport::Applied(name, labels))
            }
            Said::Deleted(one) => Some(NamespaceReport::Deleted(one.name_any())),
            Said::Nothing => None,
        };
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let labelled = report.and_then(|report| labels.take(report));
        let now = Instant::now();
        self.selected.send_if_modified(|selected| {
            selected.heard(now);
            match labelled {
                Some(labelled) if selected.labelled != labelled => {
                    selected.labelled = labelled;
                    true
                }
                _ => false,
            }
        });
    }

    fn failed(&self, reason: ErrorReason, error: &str) {
        // Listed again within seconds.
        if reason != ErrorReason::Gone {
            let error = error.to_owned();
            self.selected.send_if_modified(|selected| {
                selected.error = Some(error);
                false
            });
        }
    }
}

#[cfg(test)]
mod tests;
