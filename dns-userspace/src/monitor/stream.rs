//! What one reader is sent: the records that it wants, at the rate that it wants, and how many it was not sent.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use dns_common::abi::Bucket;
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{LeftOut, Line, Record, Subscription};

/// Lines per second, unless the reader says otherwise.
pub const DEFAULT_RATE: u32 = 100;
/// How often something is sent to a reader, so that a closed connection is noticed.
const TICK: Duration = Duration::from_secs(1);

/// What a reader wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Lines per second; 0 for all.
    pub rate: u32,
    /// Name of the one interface.
    pub interface: Option<String>,
    pub namespace: Option<String>,
    /// `NAMESPACE/NAME` of the one pod.
    pub pod: Option<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Filter {
            rate: DEFAULT_RATE,
            interface: None,
            namespace: None,
            pod: None,
        }
    }
}

impl Filter {
    fn wants(&self, record: &Record, interface: &str, pod: Option<&str>) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == value
        };
        is(&self.interface, Some(interface))
            && is(&self.namespace, record.namespace.as_deref())
            && is(&self.pod, pod)
    }
}

/// One JSON object per line; an empty line at least every second.
///
/// Must be called on a tokio runtime. `name` looks up the name of an interface, `pod` the pod behind it.
pub fn lines(
    subscription: Subscription,
    filter: Filter,
    name: impl Fn(u32) -> Option<String> + Send + 'static,
    pod: impl Fn(u32) -> Option<String> + Send + 'static,
) -> impl Stream<Item = Result<String, Infallible>> + Send {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reader = Reader {
        subscription,
        selection: Selection::new(filter, Instant::now()),
        tick,
        names: HashMap::new(),
        name: Box::new(name),
        pod: Box::new(pod),
    };
    futures::stream::unfold(reader, |mut reader| async {
        let line = reader.next().await?;
        Some((Ok(line), reader))
    })
}

struct Reader {
    subscription: Subscription,
    selection: Selection,
    tick: Interval,
    /// Names that were asked for since the last tick.
    names: HashMap<u32, String>,
    name: Box<dyn Fn(u32) -> Option<String> + Send>,
    pod: Box<dyn Fn(u32) -> Option<String> + Send>,
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                _ = self.tick.tick() => {
                    self.names.clear();
                    let kernel = self.subscription.left_out_by_kernel();
                    return Some(self.selection.tick(kernel));
                }
                record = self.subscription.next() => match record? {
                    Ok(record) => {
                        if let Some(line) = self.line(&record) {
                            return Some(line);
                        }
                    }
                    Err(lost) => self.selection.left_out.reader += lost,
                },
            }
        }
    }

    fn line(&mut self, record: &Arc<Record>) -> Option<String> {
        let interface = self
            .names
            .entry(record.ifindex)
            .or_insert_with(|| (self.name)(record.ifindex).unwrap_or_default());
        // Not kept for a moment: a pod may cease to be known.
        let pod = (self.pod)(record.ifindex);
        self.selection.line(record, interface, pod, Instant::now())
    }
}

/// What is sent and what is not; no I/O.
struct Selection {
    filter: Filter,
    bucket: Bucket,
    started: Instant,
    left_out: LeftOut,
}

impl Selection {
    fn new(filter: Filter, now: Instant) -> Self {
        Selection {
            bucket: Bucket::new(filter.rate, filter.rate),
            filter,
            started: now,
            left_out: LeftOut::default(),
        }
    }

    fn line(
        &mut self,
        record: &Record,
        interface: &str,
        pod: Option<String>,
        now: Instant,
    ) -> Option<String> {
        if !self.filter.wants(record, interface, pod.as_deref()) {
            return None;
        }
        let now_ns = now.duration_since(self.started).as_nanos() as u64;
        if !self.bucket.admit(now_ns) {
            self.left_out.rate += 1;
            return None;
        }
        Some(text(&Line::Query(Box::new(Record {
            interface: interface.to_owned(),
            pod,
            ..record.clone()
        }))))
    }

    fn tick(&mut self, kernel: u64) -> String {
        self.left_out.kernel += kernel;
        let left_out = std::mem::take(&mut self.left_out);
        if left_out.is_nothing() {
            return "\n".to_owned();
        }
        text(&Line::LeftOut { left_out })
    }
}

fn text(line: &Line) -> String {
    // Strings, numbers and no maps: it cannot fail.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Hub, record::tests::example};
    use futures::StreamExt as _;

    fn parse(line: &str) -> Line {
        serde_json::from_str(line).unwrap()
    }

    fn selection(filter: Filter) -> (Selection, Instant) {
        let now = Instant::now();
        (Selection::new(filter, now), now)
    }

    #[test]
    fn a_burst_is_cut_at_the_rate_and_the_rest_is_counted() {
        let (mut selection, now) = selection(Filter {
            rate: 10,
            ..Filter::default()
        });
        let sent = |selection: &mut Selection, now| {
            (0..50)
                .filter(|_| selection.line(&example(), "veth7", None, now).is_some())
                .count()
        };
        assert_eq!(sent(&mut selection, now), 10);
        let left_out = LeftOut {
            rate: 40,
            reader: 0,
            kernel: 3,
        };
        assert_eq!(parse(&selection.tick(3)), Line::LeftOut { left_out });
        assert_eq!(selection.tick(0), "\n", "it is reported once");
        assert_eq!(sent(&mut selection, now + Duration::from_millis(500)), 5);
    }

    #[test]
    fn a_rate_of_zero_means_unlimited() {
        let (mut selection, now) = selection(Filter {
            rate: 0,
            ..Filter::default()
        });
        assert!((0..10_000).all(|_| selection.line(&example(), "veth7", None, now).is_some()));
    }

    fn selection_of_pod(pod: &str) -> (Selection, Instant) {
        selection(Filter {
            pod: Some(pod.to_owned()),
            ..Filter::default()
        })
    }

    #[test]
    fn filters_leave_out_without_counting() {
        let other = |interface: Option<&str>, namespace: Option<&str>| Filter {
            interface: interface.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            ..Filter::default()
        };
        for (filter, is_wanted) in [
            (other(None, None), true),
            (other(Some("veth7"), None), true),
            (other(Some("veth8"), None), false),
            (other(None, Some("foo")), true),
            (other(None, Some("bar")), false),
            (other(Some("veth7"), Some("bar")), false),
        ] {
            let (mut selection, now) = selection(filter.clone());
            let line = selection.line(&example(), "veth7", None, now);
            assert_eq!(line.is_some(), is_wanted, "{filter:?}");
            assert_eq!(selection.tick(0), "\n", "{filter:?}");
        }
        let (mut selection, now) = selection(other(None, Some("foo")));
        let nowhere = Record {
            namespace: None,
            ..example()
        };
        assert_eq!(selection.line(&nowhere, "veth7", None, now), None);
        let (mut selection, now) = selection_of_pod("foo/web-0");
        for (pod, is_wanted) in [
            (None, false),
            (Some("foo/web-1"), false),
            (Some("foo/web-0"), true),
        ] {
            let line = selection.line(&example(), "veth7", pod.map(str::to_owned), now);
            assert_eq!(line.is_some(), is_wanted, "{pod:?}");
        }
    }

    #[test]
    fn a_filter_travels_in_a_query_string() {
        for filter in [
            Filter::default(),
            Filter {
                rate: 0,
                interface: Some("a&b=c".to_owned()),
                namespace: Some("foo".to_owned()),
                pod: Some("foo/web-0".to_owned()),
            },
        ] {
            let text = serde_urlencoded::to_string(&filter).unwrap();
            assert_eq!(serde_urlencoded::from_str::<Filter>(&text).unwrap(), filter);
        }
        assert_eq!(
            serde_urlencoded::from_str::<Filter>("").unwrap(),
            Filter::default()
        );
    }

    #[tokio::test]
    async fn the_stream_begins_at_once_and_names_the_interface() {
        let hub = Arc::new(Hub::default());
        let name = |index| (index == 7).then(|| "eni7".to_owned());
        let pod = |index| (index == 7).then(|| "foo/web-0".to_owned());
        let lines = lines(hub.subscribe(), Filter::default(), name, pod);
        let mut lines = Box::pin(lines);
        assert_eq!(lines.next().await.unwrap().unwrap(), "\n");
        hub.publish(example());
        let line = loop {
            let line = lines.next().await.unwrap().unwrap();
            if line != "\n" {
                break line;
            }
        };
        let expected = Record {
            interface: "eni7".to_owned(),
            pod: Some("foo/web-0".to_owned()),
            ..example()
        };
        assert_eq!(parse(&line), Line::Query(Box::new(expected)));
        drop(lines);
        assert!(!hub.is_watched());
    }
}
