//! Shutdown is one value, handed down to everything that runs until told to stop.

use tokio::sync::watch;

/// Says stop; dropping it says so too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears it.
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
    /// Ready once stop was said. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the trigger is gone.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_hears_it_at_any_time() {
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
