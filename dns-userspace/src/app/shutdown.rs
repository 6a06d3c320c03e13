//! The shutdown signal: one value, handed to everything that runs until it is set.

use tokio::sync::watch;

/// Requests the shutdown, also when it is dropped.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for the request.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// The two ends.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Ready once a shutdown was requested. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the trigger is gone.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_receiver_sees_the_request_at_any_time() {
        let (trigger, mut early) = channel();
        let mut late = early.clone();
        let waiting = tokio::spawn(async move { early.requested().await });
        trigger.stop();
        waiting.await.unwrap();
        late.requested().await;
    }

    #[tokio::test]
    async fn a_dropped_trigger_stops() {
        let (trigger, mut shutdown) = channel();
        drop(trigger);
        shutdown.requested().await;
    }
}
