//! Programs that a trampoline at the entry of a function calls (`fentry`): no breakpoint and no saved
//! registers, which costs less than a kprobe (`docs/performance.md`).
//!
//! aya loads such programs for functions of the kernel itself, and takes apart all of the kernel's types to find one; functions of a
//! module it can't name. Here the plan has found both (`kernel::btf`), and what is left are four calls of `bpf(2)`.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{
        bpf_attach_type::BPF_TRACE_FENTRY, bpf_attr, bpf_btf_info, bpf_cmd, bpf_insn,
        bpf_prog_info, bpf_prog_type::BPF_PROG_TYPE_TRACING,
    },
};

use crate::kernel::btf::FunctionId;

/// What the names of these programs in the object begin with.
pub(super) const PREFIX: &str = "fentry_";

/// Bytes of the verifier's explanation that are asked for when it refuses.
const LOG_BYTES: usize = 64 * 1024;

/// The programs of the object, not with the kernel yet.
pub(super) struct Trampolines {
    /// By name.
    programs: HashMap<String, Vec<bpf_insn>>,
    /// The object's licence.
    license: CString,
    /// The types of the `tls` module; `None`: it has none, or they can't be had.
    tls: Option<OwnedFd>,
}

/// One of them, with the kernel.
#[derive(Debug)]
pub(super) struct Trampoline {
    /// The program.
    program: OwnedFd,
    /// What holds it to its function.
    link: Option<OwnedFd>,
}

impl Trampolines {
    /// Takes the programs out of the object, to use the maps that aya has made of it.
    pub(super) fn of(object: &[u8], maps: &Ebpf) -> Result<Self, Box<dyn std::error::Error>> {
        let mut object = Object::parse(object)?;
        let sections: HashSet<usize> = object.functions.keys().map(|(index, _)| *index).collect();
        let made: HashMap<&str, RawFd> = maps
            .maps()
            .filter_map(|(name, map)| Some((name, descriptor(map)?)))
            .collect();
        let wanted = mem::take(&mut object.maps);
        object.relocate_maps(
            wanted
                .iter()
                .filter_map(|(name, map)| Some((name.as_str(), *made.get(name.as_str())?, map))),
            &sections,
        )?;
        object.relocate_calls(&sections)?;
        let programs = object
            .programs
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .filter_map(|(name, program)| {
                let function = object.functions.get(&program.function_key())?;
                Some((name.clone(), function.instructions.clone()))
            })
            .collect();
        Ok(Self {
            programs,
            license: object.license,
            tls: types_of_module("tls")
                .inspect_err(|error| tracing::debug!("types of the module tls: {error}"))
                .ok(),
        })
    }

    /// Has the kernel verify a program for this function.
    pub(super) fn load(&self, program: &str, function: FunctionId) -> io::Result<Trampoline> {
        let not_found = |what| io::Error::new(io::ErrorKind::NotFound, what);
        let instructions = self
            .programs
            .get(program)
            .ok_or_else(|| not_found("the object has no such program"))?;
        let types = if function.of_tls {
            let types = self.tls.as_ref().map(AsRawFd::as_raw_fd);
            types.ok_or_else(|| not_found("the types of the module tls can't be had"))?
        } else {
            0 // the kernel's own
        };
        self.verify(program, instructions, function.id, types)
    }

    /// Hands a program to the kernel.
    fn verify(
        &self,
        program: &str,
        instructions: &[bpf_insn],
        btf_id: u32,
        types: RawFd,
    ) -> io::Result<Trampoline> {
        let mut attr = none();
        // SAFETY: the member that BPF_PROG_LOAD reads, all of it zeroed.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = BPF_PROG_TYPE_TRACING as u32;
        load.expected_attach_type = BPF_TRACE_FENTRY as u32;
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = length(instructions.len());
        load.license = self.license.as_ptr() as u64;
        load.attach_btf_id = btf_id;
        load.__bindgen_anon_1.attach_btf_obj_fd = types.unsigned_abs();
        let name = program.strip_prefix(PREFIX).unwrap_or(program);
        // The last byte stays 0.
        for (to, from) in load.prog_name[..15].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        match descriptor_from(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
            Ok(program) => Ok(Trampoline {
                program,
                link: None,
            }),
            Err(error) => Err(explained(attr, error)),
        }
    }
}

impl Trampoline {
    /// Has the function call it.
    pub(super) fn attach(&mut self) -> io::Result<()> {
        let mut attr = none();
        attr.raw_tracepoint.prog_fd = self.program.as_raw_fd().unsigned_abs();
        let link = descriptor_from(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)?;
        self.link = Some(link);
        Ok(())
    }

    /// Has the function call it no more.
    pub(super) fn detach(&mut self) {
        self.link = None;
    }

    /// What the kernel knows of it.
    pub(super) fn info(&self) -> io::Result<bpf_prog_info> {
        info_of(self.program.as_fd())
    }
}

/// What the kernel knows of a program.
pub(super) fn info_of(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: integers and nothing else, of which 0 asks for nothing besides.
    let mut info: bpf_prog_info = unsafe { MaybeUninit::zeroed().assume_init() };
    look(program, &mut info)?;
    Ok(info)
}

/// The descriptor of a map of a kind that the object has.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerfEventArray(map)
        | Map::RingBuf(map) => Some(map.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// The types of a module, by its name. Only `CAP_SYS_ADMIN` may look for them.
fn types_of_module(module: &str) -> io::Result<OwnedFd> {
    let mut id = 0;
    loop {
        let mut attr = none();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        // Past the last there is none (ENOENT).
        bpf(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut attr)?;
        // SAFETY: what the call has written.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        let mut attr = none();
        attr.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        let Ok(types) = descriptor_from(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attr) else {
            continue; // gone meanwhile
        };
        let mut name = [0_u8; 64];
        // SAFETY: integers and nothing else, of which 0 asks for nothing besides.
        let mut info: bpf_btf_info = unsafe { MaybeUninit::zeroed().assume_init() };
        info.name = name.as_mut_ptr() as u64;
        info.name_len = length(name.len());
        let looked = look(types.as_fd(), &mut info);
        let found = name.split(|&byte| byte == 0).next() == Some(module.as_bytes());
        // A name that does not fit (ENOSPC) is another.
        if looked.is_ok() && info.kernel_btf == 1 && found {
            return Ok(types);
        }
    }
}

/// Says why a program was refused: once more, with the verifier's explanation, of which the last line says it.
fn explained(mut attr: bpf_attr, error: io::Error) -> io::Error {
    let mut log = vec![0_u8; LOG_BYTES];
    // SAFETY: as for the call before.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_level = 1;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = length(LOG_BYTES);
    // If it is taken now, the descriptor is closed at once.
    let _refused = descriptor_from(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
    let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
    let said = |line: &&str| !line.is_empty() && !line.starts_with("processed ");
    match text.lines().rfind(said) {
        Some(line) => io::Error::new(error.kind(), format!("{error}: {line}")),
        None => error,
    }
}

/// Asks what the kernel knows of a program or of types.
fn look<T>(of: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = none();
    attr.info.bpf_fd = of.as_raw_fd().unsigned_abs();
    attr.info.info_len = length(size_of::<T>());
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// A length as the kernel takes it.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Arguments of which none is given.
fn none() -> bpf_attr {
    // SAFETY: integers and nothing else; the kernel takes 0 for what is not given.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Calls `bpf(2)` for something that comes as a descriptor.
fn descriptor_from(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attr)?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Calls `bpf(2)`.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: what `attr` points at is the caller's and outlives the call; the kernel reads and writes no more than it is told.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(returned).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::symbols::HOOKED, probe::load::OBJECT};

    #[test]
    fn every_hook_has_a_kprobe_and_the_hot_ones_a_program_for_a_trampoline() {
        let object = Object::parse(OBJECT).unwrap();
        for hook in HOOKED {
            assert!(object.programs.contains_key(*hook), "{hook}");
        }
        let mut hot: Vec<&str> = object
            .programs
            .keys()
            .filter_map(|name| name.strip_prefix(PREFIX))
            .collect();
        hot.sort_unstable();
        assert_eq!(
            hot,
            [
                "sk_reset_timer",
                "tcp_check_probe_timer",
                "tcp_event_new_data_sent",
                "tls_push_sg",
                "tls_sw_sendmsg",
                "tls_sw_sendpage"
            ]
        );
    }
}
