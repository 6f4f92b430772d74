//! Whether the index is as it was written. redb has a checksum for each page, and goes by them only when it repairs a file
//! that has no list of its free pages: one that was committed with that list it reads as it stands, and ends the process, or
//! serves what a disk has made of it. So before it opens the file it is shown one without that list, as far as the repair's
//! first step, which verifies everything and changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, DatabaseError};

use super::IndexError;
use super::backend::{Backend, Trouble};
use super::slot::{CACHE, NAME, unusable};
use crate::store::disk::Disk;
use crate::store::overlay::Overlay;

/// What redb's file begins with: its magic number and a byte of flags, and from 64 on two slots, each with the root of a
/// commit.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
const FLAGS: usize = MAGIC.len();
/// Which of the slots counts.
const SECOND: u8 = 1;
/// The slot that counts was synced before it was made to, and so may be read without being verified.
const TRUSTED: u8 = 4;
const SLOTS: usize = 64;
const SLOT: usize = 128;

/// Reads all of it, and changes nothing.
///
/// # Errors
/// If it is not as it was written; those of the disk.
pub(super) fn verify(disk: &Arc<dyn Disk>) -> Result<(), IndexError> {
    let file = Overlay::new(Arc::clone(disk)).open(NAME)?;
    let mut head = [0; SLOTS + 2 * SLOT];
    if file.len()? < head.len() as u64 {
        return Err(IndexError::Foreign);
    }
    file.read_at(&mut head, 0)?;
    if head[..FLAGS] != MAGIC {
        return Err(IndexError::Foreign);
    }
    if head[FLAGS] & TRUSTED == 0 {
        // It is verified when it is opened.
        return Ok(());
    }
    // The other slot may be newer, and is not to be taken instead.
    let second = SLOTS + SLOT;
    match head[FLAGS] & SECOND {
        0 => head.copy_within(SLOTS..second, second),
        _ => head.copy_within(second.., SLOTS),
    }
    head[FLAGS] &= !TRUSTED;
    file.write_at(&head, 0)?;
    let (trouble, sound) = (Arc::<Trouble>::default(), Arc::<AtomicBool>::default());
    let is_sound = Arc::clone(&sound);
    let opened = Builder::new()
        .set_cache_size(CACHE)
        .set_repair_callback(move |repair| {
            // It is asked at the beginning, and again when all has been verified: at 0.3 if that failed, at 0.6 if not.
            is_sound.store(repair.progress() > 0.5, Ordering::Relaxed);
            if repair.progress() > 0.0 {
                repair.abort();
            }
        })
        .create_with_backend(Backend::new(file, Arc::clone(&trouble)));
    match opened {
        // Nothing was ever committed.
        Ok(_) => Ok(()),
        Err(DatabaseError::RepairAborted) if sound.load(Ordering::Relaxed) => Ok(()),
        Err(DatabaseError::RepairAborted) => {
            Err(trouble.explain(IndexError::damaged("a checksum does not hold")))
        }
        Err(error) => Err(trouble.explain(unusable(error))),
    }
}
