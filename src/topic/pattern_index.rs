//! Which patterns a topic's name matches: a trie of segments.
//!
//! A lookup follows at each segment the edge of that name and the one of `*`. With at most three `*` in a pattern that
//! makes some three thousand nodes for a name of 16 segments, however many patterns there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Pattern, TopicName};

/// Patterns, each with a set of values (subscriptions).
#[derive(Debug)]
pub struct PatternIndex<T: Copy + Ord> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    /// Each segment that occurs in some pattern has a number, so that a lookup compares texts once.
    segments: HashMap<Box<str>, Segment>,
    free_segments: Vec<u32>,
}

#[derive(Debug)]
struct Node<T> {
    /// By the segment's number. Ordered, since publishers and subscribers choose the segments.
    children: BTreeMap<u32, u32>,
    /// The edge of `*`.
    star: u32,
    /// Of patterns that end here.
    here: BTreeSet<T>,
    /// Of patterns that go on with `**`.
    rest: BTreeSet<T>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u32,
    edges: u32,
}

const ROOT: u32 = 0;
/// No node, and no segment that occurs in a pattern.
const NONE: u32 = u32::MAX;

impl<T: Copy + Ord> Default for PatternIndex<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new()], free: Vec::new(), segments: HashMap::new(), free_segments: Vec::new() }
    }
}

impl<T> Node<T> {
    fn new() -> Self {
        Self { children: BTreeMap::new(), star: NONE, here: BTreeSet::new(), rest: BTreeSet::new() }
    }

    fn is_unused(&self) -> bool {
        self.children.is_empty() && self.star == NONE && self.here.is_empty() && self.rest.is_empty()
    }
}

impl<T: Copy + Ord> PatternIndex<T> {
    /// Adds a value to a pattern. False if it was there.
    pub fn insert(&mut self, pattern: &Pattern, value: T) -> bool {
        let mut node = ROOT;
        for segment in pattern.segments() {
            if segment == "**" {
                return self.nodes[node as usize].rest.insert(value);
            }
            node = self.child(node, segment).unwrap_or_else(|| self.add_child(node, segment));
        }
        self.nodes[node as usize].here.insert(value)
    }

    /// Takes a value from a pattern. False if it was not there.
    pub fn remove(&mut self, pattern: &Pattern, value: T) -> bool {
        let mut node = ROOT;
        let mut path = Vec::new();
        let mut is_rest = false;
        for segment in pattern.segments() {
            if segment == "**" {
                is_rest = true;
                break;
            }
            let Some(child) = self.child(node, segment) else { return false };
            path.push((node, segment));
            node = child;
        }
        let found = &mut self.nodes[node as usize];
        let is_removed = if is_rest { found.rest.remove(&value) } else { found.here.remove(&value) };
        while let Some((parent, segment)) = path.pop()
            && self.nodes[node as usize].is_unused()
        {
            self.remove_child(parent, segment, node);
            node = parent;
        }
        is_removed
    }

    /// Appends the values of all patterns that match the name. A value with several such patterns comes several times.
    pub fn matches(&self, name: &TopicName, values: &mut Vec<T>) {
        self.visit(name, |found| values.extend(found));
    }

    /// Gives the values of each node that the name leads to: of patterns that end there, if the name does, else of those that go on
    /// with `**`.
    fn visit<'a>(&'a self, name: &TopicName, mut found_at: impl FnMut(&'a BTreeSet<T>)) {
        let segments: Vec<u32> =
            name.segments().map(|segment| self.segments.get(segment).map_or(NONE, |segment| segment.number)).collect();
        let mut open = vec![(ROOT, 0)];
        while let Some((node, depth)) = open.pop() {
            let found = &self.nodes[node as usize];
            let Some(&segment) = segments.get(depth) else {
                found_at(&found.here);
                continue;
            };
            found_at(&found.rest);
            if found.star != NONE {
                open.push((found.star, depth + 1));
            }
            open.extend(found.children.get(&segment).map(|&child| (child, depth + 1)));
        }
    }

    /// True if there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes[ROOT as usize].is_unused()
    }

    fn child(&self, node: u32, segment: &str) -> Option<u32> {
        if segment == "*" {
            let star = self.nodes[node as usize].star;
            return (star != NONE).then_some(star);
        }
        self.nodes[node as usize].children.get(&self.segments.get(segment)?.number).copied()
    }

    fn add_child(&mut self, parent: u32, segment: &str) -> u32 {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::new());
            u32::try_from(self.nodes.len() - 1).expect("patterns are limited")
        });
        self.nodes[child as usize] = Node::new();
        if segment == "*" {
            self.nodes[parent as usize].star = child;
        } else {
            let number = self.add_segment(segment);
            self.nodes[parent as usize].children.insert(number, child);
        }
        child
    }

    fn add_segment(&mut self, segment: &str) -> u32 {
        if let Some(known) = self.segments.get_mut(segment) {
            known.edges += 1;
            return known.number;
        }
        let next = u32::try_from(self.segments.len() + self.free_segments.len() + 1).expect("patterns are limited");
        let number = self.free_segments.pop().unwrap_or(next);
        self.segments.insert(segment.into(), Segment { number, edges: 1 });
        number
    }

    fn remove_child(&mut self, parent: u32, segment: &str, child: u32) {
        self.free.push(child);
        if segment == "*" {
            self.nodes[parent as usize].star = NONE;
            return;
        }
        let known = self.segments.get_mut(segment).expect("an edge's segment is known");
        let number = known.number;
        known.edges -= 1;
        if known.edges == 0 {
            self.segments.remove(segment);
            self.free_segments.push(number);
        }
        self.nodes[parent as usize].children.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).expect("the test's name is valid")
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("the test's pattern is valid")
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_list_of_patterns_finds(
            steps in prop::collection::vec(("([ab*]/){0,3}([ab*]|\\*\\*)", 0_u8..4, any::<bool>()), 1..60),
            names in prop::collection::vec("([abc]/){0,3}[abc]", 1..8),
        ) {
            let (mut index, mut model) = (PatternIndex::default(), BTreeSet::new());
            for (text, value, is_insert) in steps {
                let Ok(pattern) = Pattern::parse(&text) else { continue };
                if is_insert {
                    prop_assert_eq!(index.insert(&pattern, value), model.insert((text, value)));
                } else {
                    prop_assert_eq!(index.remove(&pattern, value), model.remove(&(text, value)));
                }
                for text in &names {
                    let mut found = Vec::new();
                    index.matches(&name(text), &mut found);
                    found.sort_unstable();
                    let mut expected: Vec<u8> = model.iter()
                        .filter(|(text_of, _)| super::super::Pattern::parse(text_of).is_ok_and(|of| of.matches(&name(text))))
                        .map(|&(_, value)| value).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
            for (text, value) in model {
                prop_assert!(index.remove(&pattern(&text), value));
            }
            prop_assert!(index.is_empty() && index.segments.is_empty());
            prop_assert_eq!(index.free.len() + 1, index.nodes.len(), "every node but the root is free again");
        }
    }

    /// Every pattern of 16 segments that has `*` at no more than three places, over one name: the worst there is.
    fn worst() -> (PatternIndex<u32>, TopicName) {
        let mut index = PatternIndex::default();
        for places in (0_u32..1 << 16).filter(|places| places.count_ones() <= 3) {
            let segments: Vec<&str> = (0..16).map(|place| if places >> place & 1 == 1 { "*" } else { "a" }).collect();
            index.insert(&pattern(&segments.join("/")), places);
        }
        (index, name(&["a"; 16].join("/")))
    }

    #[test]
    fn the_worst_lookup_is_bounded() {
        let (mut index, name) = worst();
        // Others beside them, at every depth, change nothing.
        for other in 0..20_000 {
            let segments: Vec<_> =
                (0..16).map(|at| if at == other % 16 { format!("x{other}") } else { "a".to_owned() }).collect();
            index.insert(&pattern(&segments.join("/")), u32::MAX);
        }
        assert!(index.nodes.len() > 100_000, "{} nodes", index.nodes.len());
        let (mut found, mut visited) = (Vec::<u32>::new(), 0);
        index.visit(&name, |values| {
            visited += 1;
            found.extend(values);
        });
        assert_eq!(found.len(), 1 + 16 + 120 + 560);
        assert!(visited <= 3_300, "{visited} nodes");
    }
}
