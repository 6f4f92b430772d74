//! [`Open`]: the branches that a match has still to follow on one level.

/// How many there may be without an allocation.
const NEAR: usize = 16;

/// A node to go to.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) node: u32,
    /// The node that a literal level leads here from, of which the hash was compared and the text was not.
    pub(super) from: u32,
}

/// Those of one level.
pub(super) struct Open {
    near: [Step; NEAR],
    len: usize,
    far: Vec<Step>,
}

impl Open {
    pub(super) fn new() -> Open {
        Open { near: [Step { node: 0, from: 0 }; NEAR], len: 0, far: Vec::new() }
    }

    pub(super) fn push(&mut self, step: Step) {
        match self.near.get_mut(self.len) {
            Some(free) => {
                *free = step;
                self.len += 1;
            }
            None => self.far.push(step),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Step> {
        if let Some(step) = self.far.pop() {
            return Some(step);
        }
        self.len = self.len.checked_sub(1)?;
        Some(self.near[self.len])
    }
}
