//! How much of each cold segment is still wanted: counts that change with every reference, gathered until the
//! transaction's end.

use std::collections::HashMap;

use redb::ReadableTable;

use super::tables::Tables;
use super::{IndexError, Live, Ref};

/// What points into a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// References.
    pub refs: u64,
    /// Bytes of the bodies that have, or had, one reference only.
    sole: u64,
    /// Bytes of the references to other bodies: each counted as often as it is referred to.
    shared: u64,
    /// Bytes of all the other bodies, wanted or not: what `shared` really is can never be more.
    shared_bodies: u64,
}

impl Row {
    fn from_row((refs, sole, shared, shared_bodies): (u64, u64, u64, u64)) -> Row {
        Row { refs, sole, shared, shared_bodies }
    }

    fn count(&mut self, reference: &Ref) {
        self.refs += 1;
        *self.bytes(reference) += u64::from(reference.size);
    }

    fn uncount(&mut self, reference: &Ref) {
        self.refs = self.refs.saturating_sub(1);
        let bytes = self.bytes(reference);
        *bytes = bytes.saturating_sub(reference.size.into());
    }

    fn bytes(&mut self, reference: &Ref) -> &mut u64 {
        if reference.shared { &mut self.shared } else { &mut self.sole }
    }
}

/// What a row of the table says.
pub fn live((refs, sole, shared, shared_bodies): (u64, u64, u64, u64)) -> Live {
    Live { refs, bytes: sole + shared.min(shared_bodies) }
}

/// The segments that a transaction has met; `None` for one whose bodies were moved.
#[derive(Debug, Default)]
pub struct LiveRows {
    rows: HashMap<u32, Option<Row>>,
    /// The segment looked up last: there are long runs of the same.
    last: (u32, Option<Row>),
}

impl LiveRows {
    /// For a transaction that applies `segment`.
    pub fn new(segment: u32) -> LiveRows {
        LiveRows { rows: HashMap::new(), last: (segment, Some(Row::default())) }
    }

    fn at(&mut self, segment: u32, tables: &Tables<'_>) -> Result<&mut Option<Row>, IndexError> {
        if self.last.0 != segment {
            self.rows.insert(self.last.0, self.last.1);
            let row = match self.rows.get(&segment) {
                Some(row) => *row,
                None => tables.live.get(segment)?.map(|row| Row::from_row(row.value())),
            };
            self.last = (segment, row);
        }
        Ok(&mut self.last.1)
    }

    /// A reference to a body in the segment being applied.
    pub fn count(&mut self, reference: &Ref, tables: &Tables<'_>) -> Result<(), IndexError> {
        if let Some(row) = self.at(reference.position.segment(), tables)? {
            row.count(reference);
        }
        Ok(())
    }

    /// A body of the segment being applied that several queues refer to.
    pub fn count_shared(&mut self, body: &Ref, tables: &Tables<'_>) -> Result<(), IndexError> {
        if let Some(row) = self.at(body.position.segment(), tables)? {
            row.shared_bodies += u64::from(body.size);
        }
        Ok(())
    }

    /// A reference is gone, and with the last one to it a body that was moved.
    pub fn release(&mut self, reference: &Ref, tables: &mut Tables<'_>) -> Result<(), IndexError> {
        match self.at(reference.position.segment(), tables)? {
            Some(row) => row.uncount(reference),
            None => tables.release_body(reference.position.0)?,
        }
        Ok(())
    }

    /// Writes the rows down, and which segments nothing points into any more.
    pub fn finish(mut self, tables: &mut Tables<'_>) -> Result<(), IndexError> {
        self.rows.insert(self.last.0, self.last.1);
        tables.emptied.retain(|_, ()| false)?;
        for (segment, row) in self.rows {
            match row {
                Some(Row { refs: 0, .. }) => {
                    tables.live.remove(segment)?;
                    tables.emptied.insert(segment, ())?;
                }
                Some(Row { refs, sole, shared, shared_bodies }) => {
                    tables.live.insert(segment, (refs, sole, shared, shared_bodies))?;
                }
                None => {}
            }
        }
        Ok(())
    }
}
