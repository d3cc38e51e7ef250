//! The Merkle tree over the events of a seal, in the shape of RFC 6962, section 2.1.
//!
//! A leaf is SHA-256 over `0x00` and what it stands for, an inner node SHA-256 over `0x01` and its
//! two children, so that neither can pass for the other. A node without a sibling moves up as
//! it is.

use sha2::{Digest as _, Sha256};

use crate::domain::Digest;

/// The leaf of an event: `0x00`, its position (`i64`), the code of its stream's kind (`i16`),
/// both little-endian, and its hash. The hash covers everything else of the event.
pub fn leaf(position: i64, stream_kind: i16, hash: &Digest) -> Digest {
    let mut digest = Sha256::new();
    digest.update([0x00]);
    digest.update(position.to_le_bytes());
    digest.update(stream_kind.to_le_bytes());
    digest.update(hash.as_bytes());
    Digest::from_bytes(digest.finalize().into())
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut digest = Sha256::new();
    digest.update([0x01]);
    digest.update(left.as_bytes());
    digest.update(right.as_bytes());
    Digest::from_bytes(digest.finalize().into())
}

/// Takes leaves one by one and knows the root of those so far, in the space of their logarithm.
#[derive(Debug, Clone, Default)]
pub struct Growing {
    leaves: u64,
    /// Roots of whole subtrees, the largest first; their sizes are the set bits of `leaves`.
    peaks: Vec<Digest>,
}

impl Growing {
    pub fn push(&mut self, leaf: Digest) {
        let mut top = leaf;
        for _ in 0..self.leaves.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                top = node(&left, &top);
            }
        }
        self.peaks.push(top);
        self.leaves += 1;
    }

    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// `None` while there is no leaf.
    pub fn root(&self) -> Option<Digest> {
        self.peaks.iter().rev().copied().reduce(|right, left| node(&left, &right))
    }
}

/// A whole tree, for the paths of its leaves.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The leaves, then their parents, up to the root alone.
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    pub fn of(leaves: Vec<Digest>) -> Self {
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                alone => alone[0],
            });
            levels.push(above.collect());
        }
        Self { levels }
    }

    pub fn root(&self) -> Option<Digest> {
        self.levels.last().and_then(|level| level.first()).copied()
    }

    /// The siblings on the way from a leaf to the root, the lowest first. `None` for a leaf that
    /// is not there.
    pub fn path(&self, index: usize) -> Option<Vec<Digest>> {
        self.levels[0].get(index)?;
        let siblings = self.levels.iter().enumerate();
        Some(siblings.filter_map(|(level, nodes)| nodes.get((index >> level) ^ 1)).copied().collect())
    }
}

/// The root of a tree of `leaves` leaves that has `leaf` at `index`, if `path` is its path there.
/// `None` for a path that has the wrong length for that place.
pub fn root_of_path(leaf: Digest, index: u64, leaves: u64, path: &[Digest]) -> Option<Digest> {
    if index >= leaves {
        return None;
    }
    let (mut index, mut nodes, mut top, mut path) = (index, leaves, leaf, path.iter());
    while nodes > 1 {
        if index % 2 == 1 {
            top = node(path.next()?, &top);
        } else if index + 1 < nodes {
            top = node(&top, path.next()?);
        }
        (index, nodes) = (index / 2, nodes.div_ceil(2));
    }
    path.next().is_none().then_some(top)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|index| leaf(index as i64 + 1, 1, &Digest::of(&index.to_le_bytes()))).collect()
    }

    /// The definition of RFC 6962, word by word.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [one] => *one,
            many => {
                let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn every_leaf_of_every_size_is_proven_by_its_path_and_at_its_place_alone() {
        for count in 1..=200 {
            let leaves = leaves(count);
            let tree = Tree::of(leaves.clone());
            let root = by_definition(&leaves);
            let mut growing = Growing::default();
            leaves.iter().for_each(|leaf| growing.push(*leaf));
            assert_eq!((tree.root(), growing.root(), growing.leaves()), (Some(root), Some(root), count as u64));
            for (index, leaf) in leaves.iter().enumerate() {
                let path = tree.path(index).unwrap();
                assert_eq!(root_of_path(*leaf, index as u64, count as u64, &path), Some(root), "{index} of {count}");
                let near = [index ^ 1, index + 1, index / 2, count - 1 - index];
                for other in near.into_iter().filter(|other| *other != index) {
                    assert_ne!(
                        root_of_path(*leaf, other as u64, count as u64, &path),
                        Some(root),
                        "{index} as {other}"
                    );
                }
            }
            assert_eq!(tree.path(count), None);
            assert_eq!(root_of_path(leaves[0], count as u64, count as u64, &[]), None);
        }
    }

    #[test]
    fn the_leaf_of_a_known_event_never_changes() {
        let known = leaf(7, 1, &Digest::of(b"event"));
        assert_eq!(known.to_string(), "2a0266e8351eb07af6a5bfa2f038a0b9273b1f7c066bf3c67569885fa4b066d1");
        assert_ne!(leaf(8, 1, &Digest::of(b"event")), known);
        assert_ne!(leaf(7, 2, &Digest::of(b"event")), known);
    }

    proptest! {
        #[test]
        fn a_changed_leaf_or_path_or_size_proves_nothing(
            count in 1_usize..200,
            at in any::<prop::sample::Index>(),
            step in any::<prop::sample::Index>(),
            bit in 0_usize..256,
        ) {
            let tree = Tree::of(leaves(count));
            let (index, root) = (at.index(count), tree.root());
            let (own, path) = (leaves(count)[index], tree.path(index).unwrap());
            let flip = |digest: Digest| {
                let mut bytes = *digest.as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                Digest::from_bytes(bytes)
            };
            prop_assert_ne!(root_of_path(flip(own), index as u64, count as u64, &path), root);
            if !path.is_empty() {
                let mut changed = path.clone();
                let step = step.index(path.len());
                changed[step] = flip(changed[step]);
                prop_assert_ne!(root_of_path(own, index as u64, count as u64, &changed), root);
                prop_assert_ne!(root_of_path(own, index as u64, count as u64, &path[1..]), root);
            }
            let longer: Vec<_> = path.iter().copied().chain([own]).collect();
            prop_assert_ne!(root_of_path(own, index as u64, count as u64, &longer), root);
        }
    }
}
