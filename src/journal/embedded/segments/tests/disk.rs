//! A disk in memory that loses power and fails.
//!
//! Between two syncs of a file each of its sectors may reach the disk, in the version of any write. Names reach it in
//! order. A failed sync loses the writes before it: a later sync does not write them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{RngExt as _, rngs::SmallRng};

use super::super::disk::{Disk, DiskFile};

/// The disk. Clones of its handles share it.
pub(super) struct TestDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    files: Vec<Content>,
    names: Names,
    /// The names after each change since the last sync, and after that sync.
    unsynced_names: Vec<Names>,
    operations: u64,
    /// The number of the operation that fails, and how.
    fault: Option<(u64, Fault)>,
    refuses_reservations: bool,
}

/// Names and the indexes of their files.
type Names = BTreeMap<String, usize>;

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    /// After the last sync.
    durable: Vec<u8>,
    /// Since the last sync: position and bytes.
    writes: Vec<(usize, Vec<u8>)>,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The device has an error.
    Device,
    /// The disk is full.
    Full,
    /// A write ends in the middle, then the device has an error.
    Short,
}

struct TestFile {
    disk: Arc<Mutex<State>>,
    index: usize,
}

// === impl TestDisk ===

impl TestDisk {
    pub(super) fn new() -> Arc<Self> {
        let state = State { unsynced_names: vec![Names::new()], ..State::default() };
        Arc::new(Self(Arc::new(Mutex::new(state))))
    }

    /// A copy that shares nothing.
    pub(super) fn copy(&self) -> Arc<Self> {
        Arc::new(Self(Arc::new(Mutex::new(State { fault: None, ..self.state().clone() }))))
    }

    pub(super) fn refuse_reservations(&self) {
        self.state().refuses_reservations = true;
    }

    /// Number of operations so far that write.
    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Makes the operation with this number fail.
    pub(super) fn fail(&self, operation: u64, fault: Fault) {
        self.state().fault = Some((operation, fault));
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Changes the content of a file directly.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let index = state.names[name];
        change(&mut state.files[index].now);
    }

    /// The disk after the power has failed now.
    pub(super) fn lose_power(&self, rng: &mut SmallRng) -> Arc<Self> {
        let state = self.state();
        let sector = if rng.random() { 512 } else { 4096 };
        let files = state.files.iter().map(|file| {
            let content = file.after_power_loss(sector, rng);
            Content { durable: content.clone(), now: content, writes: Vec::new() }
        });
        let files: Vec<_> = files.collect();
        let names = state.unsynced_names[rng.random_range(0..state.unsynced_names.len())].clone();
        let state = State { files, unsynced_names: vec![names.clone()], names, ..State::default() };
        Arc::new(Self(Arc::new(Mutex::new(state))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Disk for TestDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let index = *self.state().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(TestFile { disk: self.0.clone(), index }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        state.files.push(Content::default());
        let index = state.files.len() - 1;
        state.change_names(|names| names.insert(name.to_owned(), index));
        Ok(Arc::new(TestFile { disk: self.0.clone(), index }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let index = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change_names(|names| {
            names.remove(from);
            names.insert(to.to_owned(), index)
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.change_names(|names| names.remove(name));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.unsynced_names = vec![state.names.clone()];
        Ok(())
    }
}

// === impl State ===

impl State {
    /// Counts an operation, which may be the one that fails.
    fn step(&mut self) -> Result<(), Fault> {
        self.operations += 1;
        match self.fault {
            Some((operation, fault)) if operation == self.operations => Err(fault),
            _ => Ok(()),
        }
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names) -> Option<usize>) {
        change(&mut self.names);
        self.unsynced_names.push(self.names.clone());
    }
}

// === impl Content ===

impl Content {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        write(&mut self.now, position, bytes);
        self.writes.push((position, bytes.to_vec()));
    }

    fn after_power_loss(&self, sector: usize, rng: &mut SmallRng) -> Vec<u8> {
        let mut content = self.durable.clone();
        for begins in (0..self.now.len()).step_by(sector) {
            let ends = begins + sector;
            let touches = |(position, bytes): &&(usize, Vec<u8>)| *position < ends && position + bytes.len() > begins;
            let writes: Vec<_> = self.writes.iter().filter(touches).collect();
            for (position, bytes) in &writes[..rng.random_range(0..=writes.len())] {
                let (from, to) = (begins.max(*position), ends.min(position + bytes.len()));
                write(&mut content, from, &bytes[from - position..to - position]);
            }
        }
        content
    }
}

fn write(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[position..end].copy_from_slice(bytes);
}

// === impl TestFile ===

impl TestFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        work(&mut self.disk.lock().unwrap(), self.index)
    }
}

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, index| Ok(state.files[index].now.len() as u64))
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        self.len()
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.with(|state, index| {
            let begins = usize::try_from(position).unwrap();
            let bytes = state.files[index].now.get(begins..begins + buf.len());
            buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.with(|state, index| {
            let failed = state.step();
            let written = match failed {
                Ok(()) => bytes.len(),
                Err(Fault::Short) => bytes.len() / 2,
                Err(_) => 0,
            };
            state.files[index].write(usize::try_from(position).unwrap(), &bytes[..written]);
            Ok(failed?)
        })
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        self.with(|state, index| {
            state.step()?;
            if !state.refuses_reservations {
                let file = &mut state.files[index];
                let zeros = usize::try_from(length).unwrap() - file.now.len();
                file.write(file.now.len(), &vec![0; zeros]);
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, index| {
            let failed = state.step();
            let file = &mut state.files[index];
            file.writes.clear();
            failed?;
            file.durable = file.now.clone();
            Ok(())
        })
    }
}

// === impl Fault ===

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::from_raw_os_error(if fault == Fault::Full { 28 } else { 5 })
    }
}
