//! The client of the API server that the pod's environment names: by its address alone.
//!
//! kube's own client can resolve names, with the libc function that loads libraries, which a static binary must not have. The
//! kubelet gives pods an address.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::{
    client::legacy::{
        Client as Http,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder, service_fn};

/// For a TCP connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent connection is probed after this time, this often, and given up after three probes without a reply.
const PROBE: Duration = Duration::from_secs(15);

/// Whether this process runs in a cluster, as far as its environment says.
pub fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// A client for the cluster that this process runs in.
///
/// # Errors
/// Without a service account, or an address of the API server.
pub fn in_cluster() -> anyhow::Result<Client> {
    of_config(&Config::incluster()?)
}

/// [`in_cluster`] where the configuration allows to watch; an error says why nothing is asked.
pub fn where_allowed(may_watch: bool) -> Result<Client, String> {
    if !may_watch {
        return Err("[kubernetes] watch = false".to_owned());
    }
    if !is_in_cluster() {
        return Err("not in a cluster".to_owned());
    }
    in_cluster().map_err(|error| format!("{error:#}"))
}

/// A client for the server that a configuration names by its address.
pub fn of_config(config: &Config) -> anyhow::Result<Client> {
    let mut connector = HttpConnector::new_with_resolver(service_fn(refuse));
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(PROBE));
    connector.set_keepalive_interval(Some(PROBE));
    connector.set_keepalive_retries(Some(3));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = Http::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Addresses are not asked for.
async fn refuse(name: Name) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    Err(io::Error::other(format!(
        "{name} is not an address: KUBERNETES_SERVICE_HOST has to be one"
    )))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn a_name_in_the_place_of_an_address_is_refused_with_a_word() {
        let config = Config::new("http://localhost:1".parse().unwrap());
        let api = Api::<Service>::all(of_config(&config).unwrap());
        let error = api.list(&Default::default()).await.unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains("localhost is not an address"), "{text}");
    }
}
