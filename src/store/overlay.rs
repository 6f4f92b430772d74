//! A disk that changes nothing: what is written to it stays in memory, over the files of another. So a data folder can be
//! looked at exactly as a start would find it, with all that a start repairs, and is left as it was.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, File, Space};

/// What is kept in memory is kept in pieces of so many bytes.
const PIECE: usize = 4096;

/// A folder as it would be.
#[derive(Debug)]
pub struct Overlay {
    below: Arc<dyn Disk>,
    /// The files that were opened, made or renamed, by their names; `None`: removed.
    files: Mutex<BTreeMap<String, Option<Arc<Covered>>>>,
}

/// A file as it would be.
#[derive(Debug)]
struct Covered {
    below: Option<Arc<dyn File>>,
    over: Mutex<Over>,
}

/// What would have been written.
#[derive(Debug)]
struct Over {
    pieces: BTreeMap<u64, Box<[u8; PIECE]>>,
    len: u64,
    /// As much of the file below is still to be seen.
    below: u64,
}

impl Overlay {
    /// Over what is there.
    pub fn new(below: Arc<dyn Disk>) -> Overlay {
        Overlay { below, files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Covered>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> io::Result<Arc<Covered>> {
        match self.files().get(name) {
            Some(Some(file)) => return Ok(Arc::clone(file)),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {}
        }
        let file = self.below.open(name)?;
        let len = file.len()?;
        let over = Over { pieces: BTreeMap::new(), len, below: len };
        let covered = Arc::new(Covered { below: Some(file), over: Mutex::new(over) });
        self.files().insert(name.to_owned(), Some(Arc::clone(&covered)));
        Ok(covered)
    }
}

impl Disk for Overlay {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.below.names()?;
        let files = self.files();
        names.retain(|name| !files.contains_key(name));
        names.extend(files.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()));
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.find(name)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if self.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let over = Over { pieces: BTreeMap::new(), len: 0, below: 0 };
        let file = Arc::new(Covered { below: None, over: Mutex::new(over) });
        self.files().insert(name.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut files = self.files();
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.files().insert(name.to_owned(), None);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.below.space()
    }
}

impl Covered {
    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece that begins at `start`, as it is below.
    fn piece_below(&self, over: &Over, start: u64) -> io::Result<Box<[u8; PIECE]>> {
        let mut piece = Box::new([0; PIECE]);
        let there = over.below.saturating_sub(start).min(PIECE as u64) as usize;
        if let Some(file) = &self.below
            && there > 0
        {
            file.read_at(&mut piece[..there], start)?;
        }
        Ok(piece)
    }
}

/// The pieces that a range touches: where each begins, and which of its bytes are meant.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let (piece, end) = (PIECE as u64, offset + len as u64);
    let starts = (offset / piece..end.div_ceil(piece)).map(move |index| index * piece);
    starts.map(move |start| {
        let from = offset.saturating_sub(start) as usize;
        (start, from..(end - start).min(piece) as usize)
    })
}

impl File for Covered {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let over = self.over();
        if offset + buf.len() as u64 > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if over.pieces.is_empty()
            && let Some(file) = &self.below
            && offset + buf.len() as u64 <= over.below
        {
            return file.read_at(buf, offset);
        }
        let mut rest = buf;
        for (start, range) in pieces(offset, rest.len()) {
            let (part, behind) = rest.split_at_mut(range.len());
            match over.pieces.get(&start) {
                Some(piece) => part.copy_from_slice(&piece[range]),
                None => part.copy_from_slice(&self.piece_below(&over, start)?[range]),
            }
            rest = behind;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut over = self.over();
        let mut rest = bytes;
        for (start, range) in pieces(offset, bytes.len()) {
            let (part, behind) = rest.split_at(range.len());
            let mut piece = match over.pieces.remove(&start) {
                Some(piece) => piece,
                None => self.piece_below(&over, start)?,
            };
            piece[range].copy_from_slice(part);
            over.pieces.insert(start, piece);
            rest = behind;
        }
        over.len = over.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        over.below = over.below.min(len);
        let last = len / PIECE as u64 * PIECE as u64;
        drop(over.pieces.split_off(&len.next_multiple_of(PIECE as u64)));
        // What is cut off must not come back when it grows again.
        if let Some(piece) = over.pieces.get_mut(&last) {
            piece[(len - last) as usize..].fill(0);
        }
        over.len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::folder::Folder;

    #[test]
    fn it_shows_what_would_be_written_and_leaves_what_is_there() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().join("data");
        let below: Arc<dyn Disk> = Arc::new(Folder::open(&root).expect("a data folder"));
        let mut random = fastrand::Rng::with_seed(7);
        let original: Vec<u8> = (0..20_000).map(|_| random.u8(..)).collect();
        below.create("a").and_then(|file| file.write_at(&original, 0)).expect("written");
        below.create("b").expect("made");

        let overlay = Overlay::new(Arc::clone(&below));
        let file = overlay.open("a").expect("there");
        let mut model = original.clone();
        for round in 0..500 {
            let (at, len) = (random.usize(..model.len()), random.usize(1..9000));
            match random.u8(..4) {
                0 => {
                    let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].copy_from_slice(&bytes);
                    file.write_at(&bytes, at as u64).expect("written");
                }
                1 => {
                    let to = random.usize(1..30_000);
                    model.resize(to, 0);
                    file.set_len(to as u64).expect("cut");
                }
                _ => {
                    let len = len.min(model.len() - at);
                    let mut bytes = vec![0; len];
                    file.read_at(&mut bytes, at as u64).expect("read");
                    assert!(bytes == model[at..at + len], "round {round}");
                    assert!(file.read_at(&mut [0; 1], model.len() as u64).is_err());
                }
            }
            assert_eq!(file.len().expect("a length"), model.len() as u64);
        }
        overlay.rename("a", "c").and_then(|()| overlay.remove("b")).expect("done");
        overlay.create("d").expect("made");
        assert!(overlay.open("a").is_err() && overlay.create("c").is_err());
        let mut names = overlay.names().expect("a list");
        names.retain(|name| name.len() == 1);
        names.sort();
        assert_eq!(names, ["c", "d"]);

        let mut bytes = vec![0; original.len()];
        below.open("a").and_then(|file| file.read_at(&mut bytes, 0)).expect("read");
        assert!(bytes == original && below.open("b").is_ok() && below.open("d").is_err());
    }
}
