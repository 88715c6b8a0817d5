//! `INET_DIAG_SKMEMINFO`: a socket's memory accounting (`sk_get_meminfo`, the order of `SK_MEMINFO_*` in
//! `include/uapi/linux/sock_diag.h`).

use serde::Serialize;

use super::attributes::u32_at;

/// A socket's memory accounting, in bytes but for `drops`. A field is `None` where this kernel's list ends before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SkMemInfo {
    /// Memory of what was received and not yet read.
    pub rmem_alloc: Option<u32>,
    /// Limit of the receive buffer (`sk_rcvbuf`).
    pub rcvbuf: Option<u32>,
    /// Memory of what is in the queues below TCP.
    pub wmem_alloc: Option<u32>,
    /// Limit of the send buffer (`sk_sndbuf`), one of the two gates.
    pub sndbuf: Option<u32>,
    /// Memory reserved and not used.
    pub fwd_alloc: Option<u32>,
    /// Memory of the write queue (`sk_wmem_queued`): what is compared with `sndbuf`.
    pub wmem_queued: Option<u32>,
    /// Memory of socket options.
    pub optmem: Option<u32>,
    /// Memory of packets that came while the socket was locked.
    pub backlog: Option<u32>,
    /// Packets dropped.
    pub drops: Option<u32>,
}

impl SkMemInfo {
    /// Reads what is there, however short or long it is.
    pub fn parse(bytes: &[u8]) -> Self {
        let number = |index: usize| u32_at(bytes, index * size_of::<u32>());
        Self {
            rmem_alloc: number(0),
            rcvbuf: number(1),
            wmem_alloc: number(2),
            sndbuf: number(3),
            fwd_alloc: number(4),
            wmem_queued: number(5),
            optmem: number(6),
            backlog: number(7),
            drops: number(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_list_is_read_as_far_as_it_goes() {
        let bytes: Vec<u8> = (10_u32..19).flat_map(u32::to_ne_bytes).collect();
        let whole = SkMemInfo::parse(&bytes);
        assert_eq!(
            (whole.sndbuf, whole.wmem_queued, whole.drops),
            (Some(13), Some(15), Some(18))
        );
        let cut = SkMemInfo::parse(&bytes[..23]);
        assert_eq!((cut.fwd_alloc, cut.wmem_queued), (Some(14), None));
        assert_eq!(SkMemInfo::parse(&[]), SkMemInfo::default());
    }
}
