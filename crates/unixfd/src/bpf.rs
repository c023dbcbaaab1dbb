//! Which device nodes the processes of a cgroup may open: a small program that the kernel asks, with a table that can be
//! changed while it is in force.
//!
//! The table is libvirt's in form, so that either daemon goes on with what the other attached: its key is the device's
//! major number above its minor one, all ones for any; its value the accesses above the kind of node.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_FD_BY_ID: libc::c_int = 13;
const MAP_FD_BY_ID: libc::c_int = 14;
const INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const HASH: u32 = 1;

/// Entries that a table has room for.
const ROOM: u32 = 256;

/// A table in force.
#[derive(Debug)]
pub struct DeviceTable {
    map: OwnedFd,
}

/// Any number, of a major or a minor one.
pub const ANY_DEVICE: u32 = u32::MAX;

/// What the kernel takes: one request, as words of eight bytes.
type Request = [u64; 16];

impl DeviceTable {
    /// Whether programs of this kind are to be had at the cgroup `directory`.
    #[must_use]
    pub fn is_available(directory: &Path) -> bool {
        File::open(directory).is_ok_and(|directory| query(&directory).is_ok())
    }

    /// Attaches a program with an empty table, which forbids everything, to the cgroup `directory`; one that was
    /// attached before is replaced.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(directory: &Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        let mut request = Request::default();
        request[0] = pair(HASH, 8);
        request[1] = pair(4, ROOM);
        let map = owned(bpf(MAP_CREATE, &mut request)?);
        let program = load(&program(map.as_raw_fd()))?;
        let mut request = Request::default();
        request[0] = pair(number(directory.as_raw_fd()), number(program.as_raw_fd()));
        request[1] = pair(CGROUP_DEVICE, 0);
        bpf(PROG_ATTACH, &mut request)?;
        Ok(Self { map })
    }

    /// The table of the program that is attached to the cgroup `directory`; none if there is no program, or it has no
    /// table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(directory: &Path) -> io::Result<Option<Self>> {
        let Some(id) = query(&File::open(directory)?)? else {
            return Ok(None);
        };
        let mut request = Request::default();
        request[0] = pair(id, 0);
        let program = owned(bpf(PROG_FD_BY_ID, &mut request)?);
        let mut maps = [0_u32; 1];
        // `struct bpf_prog_info`: how many ids of maps there is room for at byte 52, and where at byte 56.
        let mut info = [0_u64; 16];
        info[6] = pair(0, 1);
        info[7] = address(&mut maps);
        let mut request = Request::default();
        request[0] = pair(number(program.as_raw_fd()), 128);
        request[1] = address(&mut info);
        bpf(INFO_BY_FD, &mut request)?;
        if maps[0] == 0 {
            return Ok(None);
        }
        let mut request = Request::default();
        request[0] = pair(maps[0], 0);
        Ok(Some(Self {
            map: owned(bpf(MAP_FD_BY_ID, &mut request)?),
        }))
    }

    /// The accesses and kinds of one device's entry.
    #[must_use]
    pub fn get(&self, major: u32, minor: u32) -> Option<u32> {
        let mut value = [0_u32; 1];
        self.entry(MAP_LOOKUP, key(major, minor), &mut value).ok()?;
        Some(value[0])
    }

    /// Sets one device's entry.
    ///
    /// # Errors
    /// The kernel's; the table is full.
    pub fn set(&self, major: u32, minor: u32, value: u32) -> io::Result<()> {
        self.entry(MAP_UPDATE, key(major, minor), &mut [value])
    }

    /// Takes one device's entry out, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, major: u32, minor: u32) -> io::Result<()> {
        match self.entry(MAP_DELETE, key(major, minor), &mut [0]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn entry(&self, command: libc::c_int, key: u64, value: &mut [u32; 1]) -> io::Result<()> {
        let mut key = [key];
        let mut request = Request::default();
        request[0] = pair(number(self.map.as_raw_fd()), 0);
        request[1] = address(&mut key);
        request[2] = if command == MAP_DELETE { 0 } else { address(value) };
        bpf(command, &mut request).map(drop)
    }
}

fn key(major: u32, minor: u32) -> u64 {
    u64::from(major) << 32 | u64::from(minor)
}

/// The id of the program that is attached.
fn query(directory: &File) -> io::Result<Option<u32>> {
    let mut ids = [0_u32; 8];
    let mut request = Request::default();
    request[0] = pair(number(directory.as_raw_fd()), CGROUP_DEVICE);
    request[2] = address(&mut ids);
    request[3] = pair(8, 0);
    bpf(PROG_QUERY, &mut request)?;
    Ok(Some(ids[0]).filter(|id| *id != 0))
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut instructions = instructions.to_vec();
    let mut license = *b"Apache-2.0\0\0\0\0\0\0";
    let mut request = Request::default();
    request[0] = pair(
        CGROUP_DEVICE_PROGRAM,
        u32::try_from(instructions.len()).unwrap_or(u32::MAX),
    );
    request[1] = address(instructions.as_mut_slice());
    request[2] = address(&mut license);
    Ok(owned(bpf(PROG_LOAD, &mut request)?))
}

/// Looks the device up as it is, then with any minor number, then with any major one, then with any of both, and allows
/// what an entry found has all bits of.
fn program(map: RawFd) -> Vec<u64> {
    let mut code = vec![instruction(0xbf, 6, 1, 0, 0)]; // r6 = context
    for (any_major, any_minor) in [(false, false), (false, true), (true, false), (true, true)] {
        // r2 = major, r3 = minor, each from the context or all ones.
        code.push(if any_major {
            instruction(0xb4, 2, 0, 0, -1)
        } else {
            instruction(0x61, 2, 6, 4, 0)
        });
        code.push(instruction(0x67, 2, 0, 0, 32)); // r2 <<= 32
        code.push(if any_minor {
            instruction(0xb4, 3, 0, 0, -1)
        } else {
            instruction(0x61, 3, 6, 8, 0)
        });
        code.extend([
            instruction(0x4f, 2, 3, 0, 0),   // r2 |= r3
            instruction(0x7b, 10, 2, -8, 0), // the key, on the stack
            instruction(0x18, 1, 1, 0, map), // r1 = the table,
            0,                               // in two halves
            instruction(0xbf, 2, 10, 0, 0),  // r2 = where the key is
            instruction(0x07, 2, 0, 0, -8),  //
            instruction(0x85, 0, 0, 0, 1),   // r0 = lookup(r1, r2)
            instruction(0x15, 0, 0, 6, 0),   // none: the next
            instruction(0x61, 1, 0, 0, 0),   // r1 = what the entry allows
            instruction(0x61, 2, 6, 0, 0),   // r2 = what is wanted
            instruction(0x5f, 1, 2, 0, 0),   // r1 &= r2
            instruction(0x5d, 1, 2, 2, 0),   // not all: the next
            instruction(0xb7, 0, 0, 0, 1),   // yes
            instruction(0x95, 0, 0, 0, 0),   //
        ]);
    }
    code.extend([instruction(0xb7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)]); // no
    code
}

/// One instruction as the kernel's `struct bpf_insn`.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        source << 4 | target
    } else {
        target << 4 | source
    };
    let [a, b, c, d] = value.to_ne_bytes();
    u64::from_ne_bytes([code, registers, low, high, a, b, c, d])
}

/// Two words of four bytes, in their order.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

/// Where the kernel reads and writes; the request that holds it must not outlive the call.
fn address<T>(place: &mut [T]) -> u64 {
    place.as_mut_ptr() as u64
}

fn bpf(command: libc::c_int, request: &mut Request) -> io::Result<RawFd> {
    // SAFETY: the request is as long as is said, and every address in it is of a buffer of the caller's that lives
    // through the call and is as long as the command makes of it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), size_of::<Request>()) };
    RawFd::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it, with close-on-exec, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
