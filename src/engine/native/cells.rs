//! The cells that wait for their next sandbox.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cell::Cell;
use super::cgroup::Cgroups;
use super::registry::Registry;

/// The cells that wait for a sandbox, and what new ones are made of.
pub struct Cells {
    pub registry: Registry,
    pub cgroups: Arc<Cgroups>,
    idle: Mutex<Idle>,
    /// Layers that some cell has, waiting or not.
    layers: Mutex<HashMap<String, Weak<str>>>,
}

#[derive(Default)]
struct Idle {
    cells: Vec<Cell>,
    closed: bool,
}

impl Cells {
    pub fn new(registry: Registry, cgroups: Arc<Cgroups>) -> Self {
        Self { registry, cgroups, idle: Mutex::default(), layers: Mutex::default() }
    }

    /// The name of a layer as the cells that have it hold it.
    pub fn hold(&self, layer: &str) -> Arc<str> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, held| held.strong_count() > 0);
        if let Some(held) = layers.get(layer).and_then(Weak::upgrade) {
            return held;
        }
        let held: Arc<str> = layer.into();
        layers.insert(layer.to_owned(), Arc::downgrade(&held));
        held
    }

    /// Whether any cell has the layer in its root.
    pub fn is_held(&self, layer: &str) -> bool {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.get(layer).is_some_and(|held| held.strong_count() > 0)
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets no cell wait from now on, and takes those that do.
    pub fn close(&self) -> Vec<Cell> {
        let mut idle = self.lock();
        idle.closed = true;
        std::mem::take(&mut idle.cells)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        // Both fields are valid after every statement, so a panic elsewhere spoils nothing.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the cell with that layer that was used last, whose memory is still warm.
    pub fn take(&self, layer: Option<&str>) -> Option<Cell> {
        let mut idle = self.lock();
        let at = idle.cells.iter().rposition(|cell| cell.layer() == layer)?;
        Some(idle.cells.remove(at))
    }

    /// Takes the cell that nobody wanted for longest, when there are as many as there may be.
    pub fn take_surplus(&self, most: usize) -> Option<Cell> {
        let mut idle = self.lock();
        (idle.cells.len() >= most.max(1)).then(|| idle.cells.remove(0))
    }

    /// Takes all cells with a layer.
    pub fn take_all(&self, layer: &str) -> Vec<Cell> {
        let mut idle = self.lock();
        let (with, without) = std::mem::take(&mut idle.cells).into_iter().partition(|cell| cell.layer() == Some(layer));
        idle.cells = without;
        with
    }

    pub fn put_back(&self, cell: Cell) {
        let _ = cell.slot().clear();
        let mut idle = self.lock();
        if !idle.closed {
            idle.cells.push(cell);
        }
    }
}
