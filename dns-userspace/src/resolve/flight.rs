//! One look-up in flight per key, with the queries that wait for it; bounded in all, and fair between interfaces.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::store::Key;

/// Look-ups in flight of all interfaces.
pub const MAX_CHASES: usize = 2048;
/// Queries that an interface may have waiting, for each look-up that it may have started.
const WAITING_PER_CHASE: usize = 16;

/// What became of a query.
#[derive(Debug)]
pub enum Joined<W> {
    /// It waits, and the caller looks the key up.
    Leads,
    /// It waits for a look-up that somebody started before.
    Waits,
    /// Its interface has enough under way.
    Full(W),
    /// It would have to be looked up, and may not.
    Refused(W),
}

/// Look-ups in flight.
#[derive(Debug)]
pub struct Flights<W> {
    inner: Mutex<Inner<W>>,
    chases_per_interface: usize,
    max_chases: usize,
    in_flight: watch::Sender<usize>,
}

#[derive(Debug)]
struct Inner<W> {
    flights: HashMap<Key, Flight<W>>,
    interfaces: HashMap<u32, Load>,
}

#[derive(Debug)]
struct Flight<W> {
    /// The interface on whose account the look-up is.
    ifindex: u32,
    waiting: Vec<(u32, W)>,
}

#[derive(Debug, Default)]
struct Load {
    chases: usize,
    waiting: usize,
}

impl<W> Flights<W> {
    pub fn new(chases_per_interface: usize, max_chases: usize) -> Flights<W> {
        Flights {
            inner: Mutex::new(Inner {
                flights: HashMap::new(),
                interfaces: HashMap::new(),
            }),
            chases_per_interface,
            max_chases,
            in_flight: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a query wait for `key`. A caller that gets [`Joined::Leads`] must call [`Flights::land`]; `may_lead` is
    /// called only where a look-up would have to begin.
    pub fn join(
        &self,
        ifindex: u32,
        key: &Key,
        query: W,
        may_lead: impl FnOnce() -> bool,
    ) -> Joined<W> {
        let mut inner = self.lock();
        let Inner {
            flights,
            interfaces,
        } = &mut *inner;
        let load = interfaces.entry(ifindex).or_default();
        // An interface may take as much as it leaves free. However many fill their shares, as much as one share is free
        // then, and the next interface finds it: n of them come to have 1/(n + 1) each.
        let free = self.max_chases.saturating_sub(flights.len());
        let flight = flights.get_mut(key);
        let room = match flight {
            Some(_) => load.waiting < self.chases_per_interface * WAITING_PER_CHASE,
            None => load.chases < self.chases_per_interface.min(free),
        };
        if !room {
            inner.forget_idle(ifindex);
            return Joined::Full(query);
        }
        if flight.is_none() && !may_lead() {
            inner.forget_idle(ifindex);
            return Joined::Refused(query);
        }
        load.waiting += 1;
        if let Some(flight) = flight {
            flight.waiting.push((ifindex, query));
            return Joined::Waits;
        }
        load.chases += 1;
        let flight = Flight {
            ifindex,
            waiting: vec![(ifindex, query)],
        };
        flights.insert(key.clone(), flight);
        let count = flights.len();
        self.in_flight.send_replace(count);
        Joined::Leads
    }

    /// Ends a look-up and gives back who waited for it.
    pub fn land(&self, key: &Key) -> Vec<W> {
        let mut inner = self.lock();
        let Some(flight) = inner.flights.remove(key) else {
            return Vec::new();
        };
        if let Some(load) = inner.interfaces.get_mut(&flight.ifindex) {
            load.chases -= 1;
        }
        for (ifindex, _) in &flight.waiting {
            if let Some(load) = inner.interfaces.get_mut(ifindex) {
                load.waiting -= 1;
            }
            inner.forget_idle(*ifindex);
        }
        let count = inner.flights.len();
        self.in_flight.send_replace(count);
        flight.waiting.into_iter().map(|(_, query)| query).collect()
    }

    /// Look-ups in flight now.
    pub fn len(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Returns once there is none.
    pub async fn idle(&self) {
        // An error means that the sender is gone, and it is ours.
        let _ = self
            .in_flight
            .subscribe()
            .wait_for(|&count| count == 0)
            .await;
    }
}

impl<W> Inner<W> {
    fn forget_idle(&mut self, ifindex: u32) {
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
    fn one_leads_and_the_others_wait() {
        let flights = Flights::new(4, MAX_CHASES);
        assert!(matches!(
            flights.join(1, &key(0), 'a', || true),
            Joined::Leads
        ));
        assert!(matches!(
            flights.join(2, &key(0), 'b', || true),
            Joined::Waits
        ));
        assert!(matches!(
            flights.join(1, &key(0), 'c', || true),
            Joined::Waits
        ));
        assert_eq!(flights.len(), 1);
        assert_eq!(flights.land(&key(0)), ['a', 'b', 'c']);
        assert!(flights.land(&key(0)).is_empty());
        assert_eq!(flights.len(), 0);
        assert!(flights.lock().interfaces.is_empty());
    }

    #[test]
    fn an_interface_at_its_cap_leaves_room_for_others() {
        let flights = Flights::new(2, MAX_CHASES);
        assert!(matches!(
            flights.join(1, &key(0), (), || true),
            Joined::Leads
        ));
        assert!(matches!(
            flights.join(1, &key(1), (), || true),
            Joined::Leads
        ));
        assert!(matches!(
            flights.join(1, &key(2), (), || true),
            Joined::Full(())
        ));
        assert!(matches!(
            flights.join(2, &key(2), (), || true),
            Joined::Leads
        ));
        flights.land(&key(0));
        assert!(matches!(
            flights.join(1, &key(3), (), || true),
            Joined::Leads
        ));
    }

    #[test]
    fn however_many_interfaces_flood_the_next_one_has_room() {
        for flooding in [1, 5, 50, 250] {
            let flights = Flights::new(256, MAX_CHASES);
            let mut number = 0;
            let mut join = |ifindex| {
                number += 1;
                matches!(
                    flights.join(ifindex, &key(number), (), || true),
                    Joined::Leads
                )
            };
            // In turn, as they come at once.
            while (1..=flooding).map(&mut join).filter(|&leads| leads).count() > 0 {}
            let share = MAX_CHASES.div_ceil(flooding as usize + 1).min(256);
            let has = (0..MAX_CHASES).filter(|_| join(1000)).count();
            assert!(has >= share / 2, "{flooding}: {has}");
            assert!(flights.len() <= MAX_CHASES);
        }
    }

    #[test]
    fn waiting_queries_are_bounded_too() {
        let flights = Flights::new(1, MAX_CHASES);
        let refused = (0..100)
            .filter(|_| matches!(flights.join(1, &key(0), (), || true), Joined::Full(())))
            .count();
        assert_eq!(refused, 100 - WAITING_PER_CHASE);
        assert!(matches!(
            flights.join(2, &key(0), (), || true),
            Joined::Waits
        ));
        assert_eq!(flights.land(&key(0)).len(), WAITING_PER_CHASE + 1);
        assert!(flights.lock().interfaces.is_empty());
    }
}
