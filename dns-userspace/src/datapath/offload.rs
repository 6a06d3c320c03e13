//! Which VLAN tags an interface takes out of the frames that it receives, before an XDP program could see them.

use std::{ffi::CStr, io, os::fd::AsRawFd as _};

use socket2::{Domain, Socket, Type};

// linux/ethtool.h
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// Kernels of today have some 60.
const MAX_FEATURES: usize = 256;

/// The features in question, as the kernel calls them, and what `ethtool -K` takes for them.
const VLAN_FEATURES: [(&str, &str); 2] = [
    ("rx-vlan-hw-parse", "rxvlan off"),
    ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse off"),
];

/// `struct ethtool_sset_info` with room for one set.
#[repr(C)]
#[derive(Default)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    command: u32,
    set: u32,
    count: u32,
    strings: [[u8; ETH_GSTRING_LEN]; MAX_FEATURES],
}

/// `struct ethtool_gfeatures`, 32 features to a block.
#[repr(C)]
struct Features {
    command: u32,
    size: u32,
    blocks: [Block; MAX_FEATURES / 32],
}

/// `struct ethtool_get_features_block`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// The command that makes an interface leave tags in frames; `None` for one that does.
///
/// # Errors
/// When the interface does not exist.
pub fn vlan_offload_remedy(interface: &str) -> io::Result<Option<String>> {
    match active(interface) {
        Ok(features) => Ok(turn_off(interface, &features)),
        // One without any features to ask for.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn turn_off(interface: &str, features: &[&str]) -> Option<String> {
    let switches: Vec<&str> = VLAN_FEATURES
        .iter()
        .filter(|(feature, _)| features.contains(feature))
        .map(|(_, switch)| *switch)
        .collect();
    (!switches.is_empty()).then(|| format!("ethtool -K {interface} {}", switches.join(" ")))
}

/// Those of the features that are on, as the kernel calls them.
fn active(interface: &str) -> io::Result<Vec<&'static str>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut info = SetInfo {
        command: ETHTOOL_GSSET_INFO,
        mask: 1 << ETH_SS_FEATURES,
        ..SetInfo::default()
    };
    // SAFETY: the command writes one count behind the mask of one set.
    unsafe { ethtool(&socket, interface, &mut info) }?;
    let count = info.count as usize;
    if count > MAX_FEATURES {
        return Err(io::Error::other(format!("{count} features")));
    }
    let mut strings = Box::new(Strings {
        command: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        count: info.count,
        strings: [[0; ETH_GSTRING_LEN]; MAX_FEATURES],
    });
    // SAFETY: the command writes as many strings as the set has, which were seen to fit.
    unsafe { ethtool(&socket, interface, &mut *strings) }?;
    let mut features = Features {
        command: ETHTOOL_GFEATURES,
        size: count.div_ceil(32) as u32,
        blocks: [Block::default(); MAX_FEATURES / 32],
    };
    // SAFETY: the command writes at most `size` blocks, which fit.
    unsafe { ethtool(&socket, interface, &mut features) }?;
    Ok(strings.strings[..count]
        .iter()
        .enumerate()
        .filter(|(index, _)| features.blocks[index / 32].active >> (index % 32) & 1 == 1)
        .filter_map(|(_, name)| {
            let name = CStr::from_bytes_until_nul(name).ok()?.to_str().ok()?;
            VLAN_FEATURES
                .iter()
                .find(|(feature, _)| *feature == name)
                .map(|(feature, _)| *feature)
        })
        .collect())
}

/// One ethtool command.
///
/// # Safety
/// `T` must be what the command named in its first word reads and writes.
unsafe fn ethtool<T>(socket: &Socket, interface: &str, command: &mut T) -> io::Result<()> {
    let mut request: libc::ifreq = {
        // SAFETY: integers, a union of them and a pointer: all zeroes are one.
        unsafe { std::mem::zeroed() }
    };
    // The last byte stays NUL.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
    // SAFETY: the request outlives the call, and what it points to is as the caller promises.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_enabled_features() {
        assert_eq!(turn_off("eth0", &[]), None);
        assert_eq!(
            turn_off("eth0", &["rx-vlan-hw-parse"]).unwrap(),
            "ethtool -K eth0 rxvlan off"
        );
        assert_eq!(
            turn_off("eth0", &["rx-vlan-stag-hw-parse", "rx-vlan-hw-parse"]).unwrap(),
            "ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off"
        );
    }

    /// The loopback has features, none of which is about VLANs; asking needs no privilege.
    #[test]
    fn the_features_of_the_kernel_are_parsed() {
        assert_eq!(vlan_offload_remedy("lo").unwrap(), None);
        assert!(vlan_offload_remedy("no such interface").is_err());
        assert!(vlan_offload_remedy("nosuch0").is_err());
    }
}
