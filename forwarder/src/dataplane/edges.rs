//! The edges, each found by its number.

use std::slice;

use policy::Name;

use super::edge::Edge;
use crate::flow::EdgeId;

/// Every edge; its number is its index, so that no packet needs a search.
pub(crate) struct Edges(Vec<Edge>);

impl Edges {
    /// Numbers the edges in order.
    pub(crate) fn new(mut edges: Vec<Edge>) -> Self {
        for (index, edge) in edges.iter_mut().enumerate() {
            edge.id = EdgeId::from_index(index);
        }
        Self(edges)
    }

    /// Adds one, behind the others.
    pub(crate) fn push(&mut self, mut edge: Edge) {
        edge.id = EdgeId::from_index(self.0.len());
        self.0.push(edge);
    }

    /// An edge by its number.
    pub(crate) fn get_mut(&mut self, id: EdgeId) -> Option<&mut Edge> {
        self.0.get_mut(id.index())
    }

    /// The number of the edge of this name.
    pub(crate) fn find(&self, name: &Name) -> Option<EdgeId> {
        self.0.iter().find(|edge| edge.name == *name).map(|edge| edge.id)
    }

    /// The edge that has this number in the old process.
    pub(crate) fn find_old(&mut self, id: EdgeId) -> Option<&mut Edge> {
        self.0.iter_mut().find(|edge| edge.old_id == Some(id))
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> slice::Iter<'_, Edge> {
        self.0.iter()
    }

    /// All of them, in order.
    pub(crate) fn iter_mut(&mut self) -> slice::IterMut<'_, Edge> {
        self.0.iter_mut()
    }
}
