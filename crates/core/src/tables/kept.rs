//! Values that are kept once, each known by its number.
//!
//! A map from values to numbers would hold every value a second time, and there are hundreds of thousands. Nor is
//! this the place for a keyed hash such as the standard library's, which took a quarter of the time of reading and
//! compiling a large policy: what is hashed is what one policy makes, so whoever would find values that collide
//! slows down only the reading of their own file, whose length is bounded. The hash still begins with a random
//! number for each process.

use std::hash::{BuildHasher as _, Hash};
use std::ops::Index;

use hashbrown::{DefaultHashBuilder, HashTable};

pub(super) struct Kept<T> {
    values: Vec<T>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Kept<T> {
    /// With room for so many: growing hashes everything anew.
    pub(super) fn with_capacity(values: usize) -> Self {
        Self {
            values: Vec::with_capacity(values),
            ids: HashTable::with_capacity(values),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<T: Eq + Hash> Kept<T> {
    /// The number of a value, and whether it is new. Numbers go up from 0.
    pub(super) fn keep(&mut self, value: T) -> (u32, bool) {
        let Self {
            values,
            ids,
            hasher,
        } = self;
        let hash = hasher.hash_one(&value);
        if let Some(&id) = ids.find(hash, |&id| values[id as usize] == value) {
            return (id, false);
        }
        let id = values.len() as u32;
        values.push(value);
        ids.insert_unique(hash, id, |&id| hasher.hash_one(&values[id as usize]));
        (id, true)
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn into_values(self) -> Vec<T> {
        self.values
    }
}

impl<T> Index<u32> for Kept<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.values[id as usize]
    }
}
