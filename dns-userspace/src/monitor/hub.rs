//! Distributes records to readers: publishing never blocks, and nothing is kept without a reader.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::{broadcast, watch};

use super::Record;

/// Records that a reader may be behind before it loses some.
const BACKLOG: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Hub {
    records: broadcast::Sender<Arc<Record>>,
    /// The number of readers, to be checked before each record.
    readers: AtomicUsize,
    /// The same, to wait for the first or the last.
    watched: watch::Sender<usize>,
    kernel_left_out: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        Hub {
            records: broadcast::Sender::new(BACKLOG),
            readers: AtomicUsize::new(0),
            watched: watch::Sender::new(0),
            kernel_left_out: AtomicU64::new(0),
        }
    }
}

impl Hub {
    /// Whether there is a reader.
    pub fn is_watched(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Sends a record to all readers.
    pub fn publish(&self, record: Record) {
        // Without a reader it is dropped.
        let _ = self.records.send(Arc::new(record));
    }

    /// Counts what the program did not report.
    pub fn left_out_by_kernel(&self, count: u64) {
        self.kernel_left_out.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of readers as it changes.
    pub fn readers(&self) -> watch::Receiver<usize> {
        self.watched.subscribe()
    }

    /// Adds a reader of the records from now on.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let subscription = Subscription {
            records: self.records.subscribe(),
            kernel_left_out: self.kernel_left_out.load(Ordering::Relaxed),
            hub: Arc::clone(self),
        };
        self.change(|readers| *readers += 1);
        subscription
    }

    fn change(&self, change: impl FnOnce(&mut usize)) {
        self.watched.send_modify(|readers| {
            change(readers);
            self.readers.store(*readers, Ordering::Relaxed);
        });
    }
}

/// A reader, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    records: broadcast::Receiver<Arc<Record>>,
    kernel_left_out: u64,
    hub: Arc<Hub>,
}

impl Subscription {
    /// The next record, or how many this reader has lost. `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Result<Arc<Record>, u64>> {
        match self.records.recv().await {
            Ok(record) => Some(Ok(record)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// What the program has not reported since the last call.
    pub fn left_out_by_kernel(&mut self) -> u64 {
        let total = self.hub.kernel_left_out.load(Ordering::Relaxed);
        total.wrapping_sub(std::mem::replace(&mut self.kernel_left_out, total))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.change(|readers| *readers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::record::tests::example;

    fn numbered(ifindex: u32) -> Record {
        Record {
            ifindex,
            ..example()
        }
    }

    #[tokio::test]
    async fn every_reader_gets_every_record() {
        let hub = Arc::new(Hub::default());
        hub.publish(numbered(1));
        assert!(!hub.is_watched());
        let (mut one, mut two) = (hub.subscribe(), hub.subscribe());
        assert_eq!(*hub.readers().borrow(), 2);
        hub.publish(numbered(2));
        assert_eq!(one.next().await.unwrap().unwrap().ifindex, 2);
        assert_eq!(two.next().await.unwrap().unwrap().ifindex, 2);
        drop(one);
        assert!(hub.is_watched());
        drop(two);
        assert!(!hub.is_watched());
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_number_of_lost_records() {
        let hub = Arc::new(Hub::default());
        let mut reader = hub.subscribe();
        for number in 0..BACKLOG as u32 + 10 {
            hub.publish(numbered(number));
        }
        assert_eq!(reader.next().await, Some(Err(10)));
        assert_eq!(reader.next().await.unwrap().unwrap().ifindex, 10);
    }

    #[tokio::test]
    async fn events_that_the_program_left_out_are_counted_once_for_each_reader() {
        let hub = Arc::new(Hub::default());
        hub.left_out_by_kernel(5);
        let mut reader = hub.subscribe();
        assert_eq!(reader.left_out_by_kernel(), 0);
        hub.left_out_by_kernel(7);
        assert_eq!(reader.left_out_by_kernel(), 7);
        assert_eq!(reader.left_out_by_kernel(), 0);
    }
}
