//! The frame in the kernel's hands: the only place that touches `__sk_buff`.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};

use crate::parse::{Bytes, ETHERNET};

/// Drop (`TC_ACT_SHOT`).
pub(crate) const SHOT: i32 = 2;
/// Go on with the next program (`TC_ACT_UNSPEC`, `TCX_NEXT`). Never OK: that would overwrite `tc_index`.
pub(crate) const UNSPEC: i32 = -1;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_VLAN_OUTER: u16 = 0x88a8;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// A VLAN tag that is not the priority tag, in the frame or taken from it.
    Vlan,
    /// Anything else.
    Other,
}

/// The ethernet header.
pub(crate) struct Link {
    /// What follows.
    pub(crate) kind: Kind,
    /// Destination MAC address.
    pub(crate) destination: [u16; 3],
    /// Source MAC address.
    pub(crate) source: [u16; 3],
}

impl Link {
    /// Whether it is for many.
    #[inline(always)]
    pub(crate) fn is_to_group(&self) -> bool {
        u16::from_be(self.destination[0]) & 0x100 != 0
    }
}

/// One run's packet.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Frame(*mut __sk_buff);

impl Frame {
    /// From the program's argument.
    #[inline(always)]
    pub(crate) fn new(context: &TcContext) -> Self {
        Self(context.skb.skb)
    }

    /// From the pointer that [`Frame::raw`] gave.
    #[inline(always)]
    pub(crate) fn from_raw(raw: *mut __sk_buff) -> Self {
        Self(raw)
    }

    /// The pointer, as a subprogram takes it.
    #[inline(always)]
    pub(crate) fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// The interface whose hook runs.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        // SAFETY: the kernel gave this pointer to the program and keeps the context alive while it runs.
        unsafe { (*self.0).ifindex }
    }

    /// The interface where the packet came in; 0 for one that this node made.
    #[inline(always)]
    pub(crate) fn came_by(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// What an earlier hook of ours left.
    #[inline(always)]
    pub(crate) fn tag(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).tc_index }
    }

    /// Leaves a word for a later hook of ours.
    #[inline(always)]
    pub(crate) fn set_tag(self, tag: u32) {
        // SAFETY: as in `ifindex`; classifiers may write this field.
        unsafe { (*self.0).tc_index = tag }
    }

    /// Reads the ethernet header.
    #[inline(always)]
    pub(crate) fn link(self) -> Option<Link> {
        // SAFETY: as in `ifindex`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // Drivers and veth put at least the ethernet header into the linear part (`eth_type_trans` needs it there).
        if data + ETHERNET as usize > end {
            return None;
        }
        // SAFETY: the comparison above proves the 14 bytes; frames begin at even addresses.
        let header = unsafe { *(data as *const [u16; 7]) };
        // SAFETY: as in `ifindex`.
        let tagged = unsafe { (*self.0).vlan_present != 0 && (*self.0).vlan_tci & 0xfff != 0 };
        let kind = match u16::from_be(header[6]) {
            _ if tagged => Kind::Vlan,
            TYPE_IPV4 => Kind::Ipv4,
            TYPE_IPV6 => Kind::Ipv6,
            TYPE_ARP => Kind::Arp,
            TYPE_VLAN | TYPE_VLAN_OUTER => Kind::Vlan,
            _ => Kind::Other,
        };
        Some(Link {
            kind,
            destination: [header[0], header[1], header[2]],
            source: [header[3], header[4], header[5]],
        })
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn fixed<const OFFSET: u32, const N: usize>(&self) -> Option<[u32; N]> {
        // SAFETY: as in `ifindex`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if data + OFFSET as usize + N * 4 > end {
            return self.at(OFFSET);
        }
        // SAFETY: the comparison above proves the bytes. The stack aligns IP headers to 4 bytes where the machine
        // needs that (NET_IP_ALIGN); the verifier refuses the program where it does not hold.
        Some(unsafe { *((data + OFFSET as usize) as *const [u32; N]) })
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the helper writes exactly the size given, into a buffer of that size, or fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, words.as_mut_ptr().cast(), N as u32 * 4) };
        // SAFETY: the helper wrote all of it.
        (failed == 0).then(|| unsafe { words.assume_init() })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn bundled(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).gso_segs != 0 }
    }
}
