//! A table whose writes can be taken back until they are kept.
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Rows by key, and what they were before the writes since the last [`keep`](Self::keep).
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    before: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), before: Vec::new() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }
    pub(super) fn has(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }
    pub(super) fn put(&mut self, key: K, row: V) {
        let old = self.rows.insert(key.clone(), row);
        self.before.push((key, old));
    }
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(old) = self.rows.remove(key) {
            self.before.push((key.clone(), Some(old)));
        }
    }
    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }
    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range)
    }
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
    /// The writes stay.
    pub(super) fn keep(&mut self) {
        self.before.clear();
    }
    /// The writes never happened.
    pub(super) fn take_back(&mut self) {
        while let Some((key, old)) = self.before.pop() {
            match old {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_back_in_reverse() {
        let mut table = Table::default();
        table.put(1, "a");
        table.keep();
        table.put(1, "b");
        table.put(2, "c");
        table.put(2, "d");
        table.remove(&1);
        table.put(1, "e");
        table.take_back();
        assert_eq!(table.rows().collect::<Vec<_>>(), [(&1, &"a")]);
    }
}
