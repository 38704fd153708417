//! The flow table: from a flow's key, or its slot, to its state.

use std::collections::HashMap;
use std::hash::Hash;

/// A slot in a [`FlowTable`]; one that was freed and used again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    index: u32,
    generation: u32,
}

impl SlotId {
    /// The slot as one number, for a poll token.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// The slot that [`to_bits`](Self::to_bits) gave the number of.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: (bits & 0xffff_ffff) as u32, generation: (bits >> 32) as u32 }
    }
}

/// The table holds as many flows as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A bounded table of flows: found by key in constant time, by slot without a hash.
///
/// Keys are hashed with a random seed, so clients cannot choose colliding ones.
#[derive(Debug)]
pub struct FlowTable<K, T> {
    index: HashMap<K, SlotId>,
    slots: Vec<Slot<K, T>>,
    free: Vec<u32>,
    limit: usize,
}

#[derive(Debug)]
struct Slot<K, T> {
    generation: u32,
    entry: Option<(K, T)>,
}

/// Generations are 24 bits wide, so that a slot leaves room for a kind in a 64-bit poll token.
const GENERATIONS: u32 = 1 << 24;

impl<K: Copy + Eq + Hash, T> FlowTable<K, T> {
    /// An empty table for at most `limit` flows.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { index: HashMap::new(), slots: Vec::new(), free: Vec::new(), limit }
    }

    /// How many flows it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Changes how many flows it may hold; existing ones stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds a flow; one of the same key must have been removed.
    ///
    /// # Errors
    /// [`Full`] at the limit, or when the key is taken.
    pub fn insert(&mut self, key: K, value: T) -> Result<SlotId, Full> {
        if self.index.len() >= self.limit || self.index.contains_key(&key) {
            return Err(Full);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).map_err(|_| Full)?;
                self.slots.push(Slot { generation: 0, entry: None });
                index
            }
        };
        let slot = self.slots.get_mut(index as usize).ok_or(Full)?;
        slot.entry = Some((key, value));
        let id = SlotId { index, generation: slot.generation };
        self.index.insert(key, id);
        Ok(id)
    }

    /// The slot of a flow.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<SlotId> {
        self.index.get(key).copied()
    }

    /// A flow by its slot, unless it is gone.
    pub fn get_mut(&mut self, id: SlotId) -> Option<(&K, &mut T)> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_mut().map(|(key, value)| (&*key, value))
    }

    /// Replaces the value in a flow's slot, and returns the one before; the key and the slot stay.
    pub fn replace(&mut self, id: SlotId, value: T) -> Option<T> {
        let (_, place) = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?
            .entry
            .as_mut()?;
        Some(std::mem::replace(place, value))
    }

    /// Removes a flow.
    pub fn remove(&mut self, id: SlotId) -> Option<(K, T)> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let (key, value) = slot.entry.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(id.index);
        self.index.remove(&key);
        Some((key, value))
    }

    /// Every flow's slot, in no order.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> {
        self.index.values().copied()
    }

    /// Every flow with its key, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_table_takes_no_flow_until_one_leaves() {
        let mut table = FlowTable::new(2);
        let first = table.insert(1u8, "a").unwrap();
        table.insert(2, "b").unwrap();
        assert_eq!(table.insert(3, "c"), Err(Full));
        assert_eq!(table.remove(first), Some((1, "a")));
        assert!(table.insert(3, "c").is_ok());
    }

    #[test]
    fn a_slot_that_was_freed_does_not_reach_the_next_flow() {
        let mut table = FlowTable::new(2);
        let old = table.insert(1u8, "a").unwrap();
        table.remove(old);
        let new = table.insert(1, "b").unwrap();
        assert!(table.get_mut(old).is_none());
        assert!(table.remove(old).is_none());
        assert_eq!(table.get_mut(new).map(|(_, value)| *value), Some("b"));
    }

    #[test]
    fn a_slot_survives_the_way_through_a_number() {
        let mut table = FlowTable::new(1);
        for _ in 0..3 {
            let id = table.insert(7u8, ()).unwrap();
            assert_eq!(SlotId::from_bits(id.to_bits()), id);
            assert!(id.to_bits() < 1 << 56);
            table.remove(id);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0u8..8), 0..200)) {
            let mut table = FlowTable::new(5);
            let mut model = HashMap::new();
            for (insert, key) in steps {
                if insert {
                    let fits = model.len() < 5 && !model.contains_key(&key);
                    prop_assert_eq!(table.insert(key, key).is_ok(), fits);
                    if fits { model.insert(key, key); }
                } else {
                    let removed = table.find(&key).and_then(|id| table.remove(id));
                    prop_assert_eq!(removed, model.remove(&key).map(|value| (key, value)));
                }
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
