//! Look-ups in flight, one per key, with the queries that wait for each; bounded in all, and fair between interfaces.

use std::collections::HashMap;

use super::cache::Key;

/// Look-ups in flight of all interfaces.
pub const MAX_CHASES: usize = 2048;
/// Queries that an interface may have waiting, for each look-up that it may have started.
const WAITING_PER_CHASE: usize = 16;

/// The result of adding a query.
#[derive(Debug)]
pub enum Joined<W> {
    /// The query waits, and the caller must start the look-up of its key.
    Started,
    /// The query waits for a look-up that is in flight already.
    Waits,
    /// The interface of the query is at its limit.
    Full(W),
    /// The query needs a look-up that it may not start.
    Refused(W),
}

/// See the module.
#[derive(Debug)]
pub struct InFlight<W> {
    look_ups: HashMap<Key, LookUp<W>>,
    interfaces: HashMap<u32, Load>,
    chases_per_interface: usize,
    max_chases: usize,
}

#[derive(Debug)]
struct LookUp<W> {
    /// The interface to whose limits the look-up counts.
    ifindex: u32,
    /// What it finds may be what its target was before it changed.
    is_outdated: bool,
    waiting: Vec<(u32, W)>,
}

#[derive(Debug, Default)]
struct Load {
    chases: usize,
    waiting: usize,
}

impl<W> InFlight<W> {
    pub fn new(chases_per_interface: usize, max_chases: usize) -> InFlight<W> {
        InFlight {
            look_ups: HashMap::new(),
            interfaces: HashMap::new(),
            chases_per_interface,
            max_chases,
        }
    }

    /// Adds a query that waits for `key`. A caller that gets [`Joined::Started`] must call [`InFlight::finish`] in the end;
    /// `may_start` is called only where a look-up would have to start.
    pub fn join(
        &mut self,
        ifindex: u32,
        key: &Key,
        query: W,
        may_start: impl FnOnce() -> bool,
    ) -> Joined<W> {
        let load = self.interfaces.entry(ifindex).or_default();
        // An interface may take as much as it leaves free. However many interfaces fill their shares, one share stays free for
        // the next: n of them have 1/(n + 1) each.
        let free = self.max_chases.saturating_sub(self.look_ups.len());
        let look_up = self.look_ups.get_mut(key);
        let has_room = match look_up {
            Some(_) => load.waiting < self.chases_per_interface * WAITING_PER_CHASE,
            None => load.chases < self.chases_per_interface.min(free),
        };
        if !has_room {
            self.remove_idle(ifindex);
            return Joined::Full(query);
        }
        if look_up.is_none() && !may_start() {
            self.remove_idle(ifindex);
            return Joined::Refused(query);
        }
        load.waiting += 1;
        if let Some(look_up) = look_up {
            look_up.waiting.push((ifindex, query));
            return Joined::Waits;
        }
        load.chases += 1;
        let look_up = LookUp {
            ifindex,
            is_outdated: false,
            waiting: vec![(ifindex, query)],
        };
        self.look_ups.insert(key.clone(), look_up);
        Joined::Started
    }

    /// Removes a look-up and returns the queries that waited for it.
    pub fn finish(&mut self, key: &Key) -> Vec<W> {
        let Some(look_up) = self.look_ups.remove(key) else {
            return Vec::new();
        };
        if let Some(load) = self.interfaces.get_mut(&look_up.ifindex) {
            load.chases -= 1;
        }
        for (ifindex, _) in &look_up.waiting {
            if let Some(load) = self.interfaces.get_mut(ifindex) {
                load.waiting -= 1;
            }
            self.remove_idle(*ifindex);
        }
        look_up
            .waiting
            .into_iter()
            .map(|(_, query)| query)
            .collect()
    }

    /// Marks the look-ups of these keys as outdated, and calls `each` with the queries that wait for them.
    pub fn outdate(&mut self, is_outdated: impl Fn(&Key) -> bool, mut each: impl FnMut(&mut W)) {
        for (key, look_up) in &mut self.look_ups {
            if is_outdated(key) {
                look_up.is_outdated = true;
                look_up
                    .waiting
                    .iter_mut()
                    .for_each(|(_, query)| each(query));
            }
        }
    }

    /// Whether the look-up of a key was marked since it started or since the last call.
    pub fn take_outdated(&mut self, key: &Key) -> bool {
        self.look_ups
            .get_mut(key)
            .is_some_and(|look_up| std::mem::take(&mut look_up.is_outdated))
    }

    /// Look-ups in flight now.
    pub fn len(&self) -> usize {
        self.look_ups.len()
    }

    fn remove_idle(&mut self, ifindex: u32) {
        if let Some(load) = self.interfaces.get(&ifindex)
            && load.chases == 0
            && load.waiting == 0
        {
            self.interfaces.remove(&ifindex);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RecordType};

    fn key(number: u32) -> Key {
        Key {
            via: vec![],
            target: Name::from_ascii(format!("t{number}.example.")).unwrap(),
            qtype: RecordType::A,
            upstream: ([127, 0, 0, 1], 53).into(),
        }
    }

    #[test]
    fn one_query_starts_the_look_up_and_the_others_wait() {
        let mut in_flight = InFlight::new(4, MAX_CHASES);
        assert!(matches!(
            in_flight.join(1, &key(0), 'a', || true),
            Joined::Started
        ));
        assert!(matches!(
            in_flight.join(2, &key(0), 'b', || true),
            Joined::Waits
        ));
        assert!(matches!(
            in_flight.join(1, &key(0), 'c', || true),
            Joined::Waits
        ));
        assert_eq!(in_flight.len(), 1);
        assert_eq!(in_flight.finish(&key(0)), ['a', 'b', 'c']);
        assert!(in_flight.finish(&key(0)).is_empty());
        assert_eq!(in_flight.len(), 0);
        assert!(in_flight.interfaces.is_empty());
    }

    #[test]
    fn an_interface_at_its_limit_leaves_a_share_for_others() {
        let mut in_flight = InFlight::new(2, MAX_CHASES);
        assert!(matches!(
            in_flight.join(1, &key(0), (), || true),
            Joined::Started
        ));
        assert!(matches!(
            in_flight.join(1, &key(1), (), || true),
            Joined::Started
        ));
        assert!(matches!(
            in_flight.join(1, &key(2), (), || true),
            Joined::Full(())
        ));
        assert!(matches!(
            in_flight.join(2, &key(2), (), || true),
            Joined::Started
        ));
        in_flight.finish(&key(0));
        assert!(matches!(
            in_flight.join(1, &key(3), (), || true),
            Joined::Started
        ));
    }

    #[test]
    fn however_many_interfaces_flood_a_share_is_left_for_the_next() {
        for flooding in [1, 5, 50, 250] {
            let mut in_flight = InFlight::new(256, MAX_CHASES);
            let mut number = 0;
            let mut join = |ifindex| {
                number += 1;
                matches!(
                    in_flight.join(ifindex, &key(number), (), || true),
                    Joined::Started
                )
            };
            // In turn, as they come at once.
            while (1..=flooding)
                .map(&mut join)
                .filter(|&started| started)
                .count()
                > 0
            {}
            let share = MAX_CHASES.div_ceil(flooding as usize + 1).min(256);
            let has = (0..MAX_CHASES).filter(|_| join(1000)).count();
            assert!(has >= share / 2, "{flooding}: {has}");
            assert!(in_flight.len() <= MAX_CHASES);
        }
    }

    #[test]
    fn waiting_queries_are_bounded_too() {
        let mut in_flight = InFlight::new(1, MAX_CHASES);
        let refused = (0..100)
            .filter(|_| matches!(in_flight.join(1, &key(0), (), || true), Joined::Full(())))
            .count();
        assert_eq!(refused, 100 - WAITING_PER_CHASE);
        assert!(matches!(
            in_flight.join(2, &key(0), (), || true),
            Joined::Waits
        ));
        assert_eq!(in_flight.finish(&key(0)).len(), WAITING_PER_CHASE + 1);
        assert!(in_flight.interfaces.is_empty());
    }
}
