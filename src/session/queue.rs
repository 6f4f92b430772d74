//! What waits for a client: a bounded FIFO of deliveries that have no packet id yet, and the policy
//! for what happens when it is full.

use std::collections::VecDeque;
use std::time::Instant;

use super::Delivery;
use crate::message::QueueId;

/// A FIFO of deliveries that knows its bytes. Of most sessions nothing waits, so an empty one is a null pointer.
#[derive(Debug, Default)]
pub struct Queue(Option<Box<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// Of those that are in memory alone.
    loose: (usize, usize),
    /// None of them expires before this.
    expires: Option<Instant>,
}

impl Queue {
    /// How many deliveries wait.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.deliveries.len())
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|held| held.deliveries.is_empty())
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.bytes)
    }

    /// How many are in memory alone, and their bytes.
    pub fn loose(&self) -> (usize, usize) {
        self.0.as_ref().map_or((0, 0), |held| held.loose)
    }

    /// Whether one more of `size` bytes stays within these limits.
    pub fn has_room(&self, size: usize, max_messages: u64, max_bytes: u64) -> bool {
        (self.len() as u64) < max_messages && (self.bytes() + size) as u64 <= max_bytes
    }

    /// Appends.
    pub fn push(&mut self, delivery: Delivery) {
        let held = self.0.get_or_insert_default();
        held.account_added(&delivery);
        held.deliveries.push_back(delivery);
    }

    /// Puts back at the head what had been taken, oldest first, keeping its order.
    pub fn push_head(&mut self, mut returned: Vec<Delivery>) {
        while let Some(delivery) = returned.pop() {
            let held = self.0.get_or_insert_default();
            held.account_added(&delivery);
            held.deliveries.push_front(delivery);
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Delivery> {
        let held = self.0.as_mut()?;
        let delivery = held.deliveries.pop_front()?;
        held.account_removed(&delivery);
        self.shrink();
        Some(delivery)
    }

    /// Takes the oldest that belongs to `queue`.
    pub fn pop_from(&mut self, queue: QueueId) -> Option<Delivery> {
        let index = self.iter().position(|delivery| delivery.from == queue)?;
        self.remove(index)
    }

    /// Takes the oldest that is in memory alone.
    pub fn pop_loose(&mut self) -> Option<Delivery> {
        let index = self.iter().position(|delivery| !delivery.durable)?;
        self.remove(index)
    }

    /// Takes the oldest that is on disk as well.
    pub fn pop_durable(&mut self) -> Option<Delivery> {
        let index = self.iter().position(|delivery| delivery.durable)?;
        self.remove(index)
    }

    /// The oldest.
    pub fn front(&self) -> Option<&Delivery> {
        self.0.as_ref()?.deliveries.front()
    }

    /// Takes out, in order, whatever `pick` chooses.
    pub fn take(&mut self, mut pick: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let Some(held) = self.0.as_mut() else { return Vec::new() };
        if !held.deliveries.iter().any(&mut pick) {
            return Vec::new();
        }
        let (taken, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut held.deliveries).into_iter().partition(pick);
        held.deliveries = kept;
        for delivery in &taken {
            held.account_removed(delivery);
        }
        self.shrink();
        taken.into()
    }

    /// Takes out what has expired. Where nothing can have, that costs nothing: a full queue asks at every message.
    pub fn purge(&mut self, now: Instant) -> Vec<Delivery> {
        if self.0.as_ref().and_then(|held| held.expires).is_none_or(|at| at > now) {
            return Vec::new();
        }
        let expired = self.take(|delivery| delivery.message.is_expired(now));
        if let Some(held) = &mut self.0 {
            held.expires = held.deliveries.iter().filter_map(|delivery| delivery.message.expires).min();
        }
        expired
    }

    /// The delivery at `index` from the head.
    pub fn get(&self, index: usize) -> Option<&Delivery> {
        self.0.as_ref()?.deliveries.get(index)
    }

    /// Takes the delivery at `index` from the head.
    pub fn remove(&mut self, index: usize) -> Option<Delivery> {
        let held = self.0.as_mut()?;
        let delivery = held.deliveries.remove(index)?;
        held.account_removed(&delivery);
        self.shrink();
        Some(delivery)
    }

    /// Every delivery, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.0.iter().flat_map(|held| &held.deliveries)
    }

    /// A backlog that has drained gives its memory back.
    fn shrink(&mut self) {
        self.0.take_if(|held| held.deliveries.is_empty() && held.deliveries.capacity() > 64);
    }
}

impl Contents {
    fn account_added(&mut self, delivery: &Delivery) {
        self.bytes += delivery.message.size();
        if !delivery.durable {
            self.loose = (self.loose.0 + 1, self.loose.1 + delivery.message.size());
        }
        self.expires = self.expires.into_iter().chain(delivery.message.expires).min();
    }

    fn account_removed(&mut self, delivery: &Delivery) {
        self.bytes -= delivery.message.size();
        if !delivery.durable {
            self.loose = (self.loose.0 - 1, self.loose.1 - delivery.message.size());
        }
    }
}
