//! The token buckets of the attached interfaces: an array by slot, and a hash map for those whose slot is taken.

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError},
};
use dns_common::abi::{self, Bucket, Interface, interface_slot, maps};

use super::{DatapathError, object::take, pod::Plain};

pub struct Interfaces {
    slots: Array<MapData, Plain<Interface>>,
    more: BpfHashMap<MapData, u32, Plain<Interface>>,
}

impl Interfaces {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            slots: take(ebpf, maps::INTERFACES)?,
            more: take(ebpf, maps::MORE_INTERFACES)?,
        })
    }

    /// Whether an interface has a bucket.
    pub fn contains(&self, index: u32) -> bool {
        let slot = self.slots.get(&interface_slot(index), 0);
        slot.is_ok_and(|Plain(holder)| holder.ifindex == u64::from(index))
            || self.more.get(&index, 0).is_ok()
    }

    /// Gives an interface a bucket. One that has it keeps how answers leave it.
    pub fn insert(&mut self, index: u32, bucket: Bucket) -> Result<(), DatapathError> {
        let egress = self.egress(index).unwrap_or(abi::BY_EGRESS);
        let interface = Plain(Interface {
            ifindex: index.into(),
            bucket,
            egress,
            process: 0,
        });
        let slot = interface_slot(index);
        let holder = self.slots.get(&slot, 0).map_err(failed)?.0.ifindex;
        if holder == 0 || holder == u64::from(index) {
            self.slots.set(slot, interface, 0).map_err(failed)
        } else {
            self.more.insert(index, interface, 0).map_err(failed)
        }
    }

    fn egress(&self, index: u32) -> Option<u64> {
        match self.slots.get(&interface_slot(index), 0) {
            Ok(Plain(holder)) if holder.ifindex == u64::from(index) => Some(holder.egress),
            _ => self
                .more
                .get(&index, 0)
                .ok()
                .map(|Plain(holder)| holder.egress),
        }
    }

    /// Sets how answers leave an interface that has a bucket.
    pub fn set_reply_path(&mut self, index: u32, egress: u64) -> Result<(), DatapathError> {
        let slot = interface_slot(index);
        let Plain(mut interface) = self.slots.get(&slot, 0).map_err(failed)?;
        if interface.ifindex == u64::from(index) {
            if interface.egress != egress {
                interface.egress = egress;
                self.slots.set(slot, Plain(interface), 0).map_err(failed)?;
            }
            return Ok(());
        }
        if let Ok(Plain(mut interface)) = self.more.get(&index, 0)
            && interface.egress != egress
        {
            interface.egress = egress;
            self.more
                .insert(index, Plain(interface), 0)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Removes the buckets of interfaces that were removed: an index that is used again inherits nothing.
    pub fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        for slot in 0..abi::INTERFACE_SLOTS {
            if let Ok(Plain(holder)) = self.slots.get(&slot, 0)
                && holder.ifindex != 0
                && !is_there(holder.ifindex as u32)
            {
                let _ = self.slots.set(slot, Plain(Interface::default()), 0);
            }
        }
        let more: Vec<u32> = self.more.keys().filter_map(Result::ok).collect();
        for index in more.into_iter().filter(|index| !is_there(*index)) {
            let _ = self.more.remove(&index);
        }
    }

    /// Removes the bucket of an interface; one that has none is no error.
    pub fn remove(&mut self, index: u32) {
        let slot = interface_slot(index);
        match self.slots.get(&slot, 0) {
            Ok(Plain(holder)) if holder.ifindex == u64::from(index) => {
                let _ = self.slots.set(slot, Plain(Interface::default()), 0);
            }
            _ => {
                let _ = self.more.remove(&index);
            }
        }
    }
}

fn failed(error: MapError) -> DatapathError {
    DatapathError::Map {
        name: maps::INTERFACES,
        error,
    }
}
