//! The Services that rules lead to, as the API server lists and watches them.

use std::sync::Arc;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1;
use kube::{Api, Client, ResourceExt as _};

use super::{
    ErrorReason, Kind, Report, Selector, Service, SharedServices,
    list_watch::{self, Reports},
};

/// Watches for as long as it is polled.
pub async fn follow(client: Client, selector: Selector, services: Arc<SharedServices>) {
    let api = match &selector.namespace {
        Some(namespace) => Api::<v1::Service>::namespaced(client, namespace),
        None => Api::all(client),
    };
    let fields = selector.fields();
    list_watch::follow(api, fields, Watched { selector, services }).await;
}

struct Watched {
    selector: Selector,
    services: Arc<SharedServices>,
}

impl Watched {
    fn report(&self, report: Report) {
        self.services.report(&self.selector, report);
    }
}

impl Reports<v1::Service> for Watched {
    fn kind(&self) -> &'static str {
        "Services"
    }

    fn which(&self) -> String {
        self.selector.to_string()
    }

    fn meanwhile(&self) -> &'static str {
        "targets are looked up by DNS until the API server says more"
    }

    fn listed(&self, services: Vec<v1::Service>) {
        self.report(Report::Listed(services.into_iter().map(read).collect()));
    }

    fn applied(&self, service: v1::Service) {
        self.report(Report::Applied(read(service)));
    }

    fn deleted(&self, service: v1::Service) {
        let service = read(service);
        self.report(Report::Deleted(service.namespace, service.name));
    }

    fn heard(&self) {
        self.report(Report::Heard);
    }

    fn failed(&self, reason: ErrorReason, error: &str) {
        self.services.failed(&self.selector, reason, error);
    }
}

fn read(service: v1::Service) -> Service {
    let spec = service.spec.as_ref();
    let external = spec
        .filter(|spec| spec.type_.as_deref() == Some("ExternalName"))
        .and_then(|spec| spec.external_name.as_deref());
    Service {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        uid: service.uid().unwrap_or_default(),
        kind: external.and_then(alias).map_or(Kind::Other, Kind::Alias),
    }
}

/// Absolute, in lower case.
fn alias(external: &str) -> Option<Name> {
    if external.is_empty() || external == "." {
        return None;
    }
    let mut name = Name::from_ascii(external).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests;
