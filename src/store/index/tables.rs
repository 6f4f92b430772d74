//! The tables of the index, as redb has them.

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::IndexError;

/// What [`super::tables`] looks like. A program reads only its own.
pub const FORMAT: u64 = 2;

/// Single numbers: see the names below.
pub const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The version of all this.
pub const FORMAT_KEY: &str = "format";
/// The first segment that is not in the index.
pub const REPLAY_KEY: &str = "replay_from";
/// The highest version of a retained publish.
pub const VERSION_KEY: &str = "retained_version";
/// The latest wall time, in milliseconds since 1970.
pub const WALL_KEY: &str = "wall";
/// The bytes of all pages and bodies and retained messages.
pub const STORED_KEY: &str = "stored_bytes";

/// Prefix: the highest message and the highest queue.
pub const HIGHEST: TableDefinition<'_, u16, (u64, u64)> = TableDefinition::new("highest");
/// Queue: its owner ([`SESSION`] or [`GROUP`]), its references and their bytes.
pub const QUEUES: TableDefinition<'_, u64, QueueRow> = TableDefinition::new("queues");
/// Queue and a position not behind its first reference: a page.
pub const PAGES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("pages");
/// Segment: references, and bytes in the three forms of [`super::live::Row`].
pub const LIVE: TableDefinition<'_, u32, (u64, u64, u64, u64)> = TableDefinition::new("live");
/// The segments that the last one applied left without references.
pub const EMPTIED: TableDefinition<'_, u32, ()> = TableDefinition::new("emptied");
/// Position of a body that was moved here: its record.
pub const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");
/// Position of a body that was moved here: the references to it.
pub const BODY_COUNTS: TableDefinition<'_, u64, u64> = TableDefinition::new("body_counts");
/// Session: whether it still has the will that stands in its record, and the record.
pub const SESSIONS: TableDefinition<'_, u64, (bool, &[u8])> = TableDefinition::new("sessions");
/// Session and filter: the subscription.
pub const SUBSCRIPTIONS: TableDefinition<'_, (u64, &str), SubscriptionRow<'_>> =
    TableDefinition::new("subscriptions");
/// Session and packet id of what was received and not released.
pub const RECEIVED: TableDefinition<'_, (u64, u16), ()> = TableDefinition::new("received");
/// Session and packet id of a QoS 2 delivery.
pub const SENT: TableDefinition<'_, (u64, u16), SentRow> = TableDefinition::new("sent");
/// Topic: version, position, record.
pub const RETAINED: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("retained");

/// Owner, references, bytes.
pub type QueueRow = (u8, u64, u64);
/// Options, identifier, group, since; whether a replay runs, and its last topic or the empty text.
pub type SubscriptionRow<'a> = (u8, u32, Option<u64>, u64, bool, &'a str);
/// Where its `Sent` stands; until its PUBREC the queue it comes from, and its reference: position, id, size, shared.
pub type SentRow = (u64, Option<(u64, u64, u64, u32, bool)>);

/// A queue of a session.
pub const SESSION: u8 = 1;
/// A queue of a share group.
pub const GROUP: u8 = 2;

/// All tables, open for writing.
pub struct Tables<'t> {
    pub numbers: Table<'t, &'static str, u64>,
    pub highest: Table<'t, u16, (u64, u64)>,
    pub queues: Table<'t, u64, QueueRow>,
    pub pages: Table<'t, (u64, u64), &'static [u8]>,
    pub live: Table<'t, u32, (u64, u64, u64, u64)>,
    pub emptied: Table<'t, u32, ()>,
    pub bodies: Table<'t, u64, &'static [u8]>,
    pub body_counts: Table<'t, u64, u64>,
    pub sessions: Table<'t, u64, (bool, &'static [u8])>,
    pub subscriptions: Table<'t, (u64, &'static str), SubscriptionRow<'static>>,
    pub received: Table<'t, (u64, u16), ()>,
    pub sent: Table<'t, (u64, u16), SentRow>,
    pub retained: Table<'t, &'static str, (u64, u64, &'static [u8])>,
    /// What this transaction added to [`STORED_KEY`].
    grown: i64,
}

impl<'t> Tables<'t> {
    /// Opens them, and makes those that are not there.
    pub fn open(transaction: &'t WriteTransaction) -> Result<Tables<'t>, IndexError> {
        Ok(Tables {
            numbers: transaction.open_table(NUMBERS)?,
            highest: transaction.open_table(HIGHEST)?,
            queues: transaction.open_table(QUEUES)?,
            pages: transaction.open_table(PAGES)?,
            live: transaction.open_table(LIVE)?,
            emptied: transaction.open_table(EMPTIED)?,
            bodies: transaction.open_table(BODIES)?,
            body_counts: transaction.open_table(BODY_COUNTS)?,
            sessions: transaction.open_table(SESSIONS)?,
            subscriptions: transaction.open_table(SUBSCRIPTIONS)?,
            received: transaction.open_table(RECEIVED)?,
            sent: transaction.open_table(SENT)?,
            retained: transaction.open_table(RETAINED)?,
            grown: 0,
        })
    }

    /// Writes a page.
    pub fn put_page(&mut self, key: (u64, u64), page: &[u8]) -> Result<(), IndexError> {
        let old = self.pages.insert(key, page)?.map_or(0, |old| old.value().len());
        self.grown += page.len() as i64 - old as i64;
        Ok(())
    }

    /// Removes a page.
    pub fn remove_page(&mut self, key: (u64, u64)) -> Result<(), IndexError> {
        self.grown -= self.pages.remove(key)?.map_or(0, |old| old.value().len()) as i64;
        Ok(())
    }

    /// Writes a body with the number of references to it.
    pub fn put_body(&mut self, position: u64, record: &[u8], count: u64) -> Result<(), IndexError> {
        let old = self.bodies.insert(position, record)?.map_or(0, |old| old.value().len());
        self.grown += record.len() as i64 - old as i64;
        self.body_counts.insert(position, count)?;
        Ok(())
    }

    /// Takes one reference from a body that was moved here.
    pub fn release_body(&mut self, position: u64) -> Result<(), IndexError> {
        let count = self.body_counts.get(position)?.map(|count| count.value());
        match count {
            Some(count) if count > 1 => {
                self.body_counts.insert(position, count - 1)?;
            }
            Some(_) => {
                self.body_counts.remove(position)?;
                self.grown -= self.bodies.remove(position)?.map_or(0, |old| old.value().len()) as i64;
            }
            None => {}
        }
        Ok(())
    }

    /// Writes a topic's retained message, unless a higher version is there; clears it without a record.
    pub fn retain(
        &mut self,
        topic: &str,
        version: u64,
        position: u64,
        record: Option<&[u8]>,
    ) -> Result<(), IndexError> {
        if self.retained.get(topic)?.is_some_and(|row| row.value().0 > version) {
            return Ok(());
        }
        let old = match record {
            Some(record) => self.retained.insert(topic, (version, position, record))?,
            None => self.retained.remove(topic)?,
        };
        let old = old.map_or(0, |old| old.value().2.len());
        self.grown += record.map_or(0, <[u8]>::len) as i64 - old as i64;
        Ok(())
    }

    /// One of the single numbers, 0 if it was never written.
    pub fn number(&self, key: &str) -> Result<u64, IndexError> {
        Ok(self.numbers.get(key)?.map_or(0, |row| row.value()))
    }

    /// Writes one of the single numbers, if it is higher than what is there.
    pub fn raise(&mut self, key: &str, value: u64) -> Result<(), IndexError> {
        if value > self.number(key)? {
            self.numbers.insert(key, value)?;
        }
        Ok(())
    }

    /// The segments that the last one applied left without references, in order.
    pub fn emptied(&self) -> Result<Vec<u32>, IndexError> {
        let rows = self.emptied.iter()?.map(|row| row.map(|(segment, _)| segment.value()));
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Writes down what changed in sum.
    pub fn finish(mut self) -> Result<(), IndexError> {
        let stored = self.number(STORED_KEY)?.saturating_add_signed(self.grown);
        self.numbers.insert(STORED_KEY, stored)?;
        Ok(())
    }
}

/// One of the single numbers, 0 if it was never written.
pub fn number(transaction: &ReadTransaction, key: &str) -> Result<u64, IndexError> {
    Ok(transaction.open_table(NUMBERS)?.get(key)?.map_or(0, |row| row.value()))
}
