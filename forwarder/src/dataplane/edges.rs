//! The edges, each found by its number.

use std::slice;

use policy::Name;

use super::edge::Edge;
use crate::flow::EdgeId;

/// Every edge, in the order of the numbers: a few comparisons find one.
#[derive(Default)]
pub(crate) struct Edges {
    /// The numbers of the edges, ascending.
    ids: Vec<EdgeId>,
    edges: Vec<Edge>,
}

impl Edges {
    /// Adds one, whose number is above those of the others.
    pub(crate) fn push(&mut self, edge: Edge) {
        self.ids.push(edge.id);
        self.edges.push(edge);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: EdgeId) -> Option<Edge> {
        let place = self.ids.binary_search(&id).ok()?;
        self.ids.remove(place);
        Some(self.edges.remove(place))
    }

    /// An edge by its number.
    pub(crate) fn get_mut(&mut self, id: EdgeId) -> Option<&mut Edge> {
        let place = self.ids.binary_search(&id).ok()?;
        self.edges.get_mut(place)
    }

    /// The number of the edge of this name.
    pub(crate) fn find(&self, name: &Name) -> Option<EdgeId> {
        self.edges.iter().find(|edge| edge.name == *name).map(|edge| edge.id)
    }

    /// The edge that has this number in the old process.
    pub(crate) fn find_old(&mut self, id: EdgeId) -> Option<&mut Edge> {
        self.edges.iter_mut().find(|edge| edge.old_id == Some(id))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> slice::Iter<'_, Edge> {
        self.edges.iter()
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> slice::IterMut<'_, Edge> {
        self.edges.iter_mut()
    }
}
