//! Sends Events to the API server, one after the other.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    events::Note,
    reporter::Reporter,
    shared::{EventOutcome, SharedServices},
};

/// For one Event.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends what comes, for as long as it is polled.
pub async fn send(
    client: Client,
    notes: Arc<Mutex<mpsc::Receiver<Note>>>,
    reporter: Arc<Reporter>,
    services: Arc<SharedServices>,
) {
    let mut notes = notes.lock().await;
    let mut is_refused = false;
    while let Some(note) = notes.recv().await {
        let api = Api::<Event>::namespaced(client.clone(), &note.subject.namespace);
        let event = event(&note);
        let parameters = PostParams::default();
        let created = timeout(PATIENCE, api.create(&parameters, &event)).await;
        let outcome = match created {
            Ok(Ok(_)) => EventOutcome::Created,
            Ok(Err(Error::Api(status))) => match status.code {
                // Another node was first.
                409 => EventOutcome::Exists,
                // Also for a namespace that is being deleted. Asking again would not help.
                403 => {
                    if !std::mem::replace(&mut is_refused, true) {
                        warn!(error = status.message, "cannot create Events");
                    }
                    EventOutcome::Refused
                }
                code => {
                    debug!(code, error = status.message, "Event not created");
                    EventOutcome::Failed
                }
            },
            Ok(Err(error)) => {
                debug!(%error, "Event not created");
                EventOutcome::Failed
            }
            Err(_) => EventOutcome::Failed,
        };
        reporter.sent(&note, outcome);
        services.event(outcome);
    }
}

fn event(note: &Note) -> Event {
    let subject = &note.subject;
    let now = Some(Time(Timestamp::now()));
    Event {
        metadata: ObjectMeta {
            name: Some(note.name.clone()),
            namespace: Some(subject.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(subject.name.clone()),
            namespace: Some(subject.namespace.clone()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        // No host: it is one Event for the whole cluster.
        source: Some(EventSource {
            component: Some("gregor".to_owned()),
            host: None,
        }),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}
