//! Which USB device of the host is meant: by its place, by what it is, or by both. Pure.

use domxml::devices::HostdevSource;
use hostinfo::UsbDevice;

use crate::error::{Area, Code, Error, Result};

/// The device that is meant, of those that there are; none if it is missing and need not be there.
///
/// # Errors
/// It is missing, or there are several of the kind.
pub(crate) fn usb(
    devices: &[UsbDevice],
    source: &HostdevSource,
    place: Option<(u32, u32)>,
    required: bool,
) -> Result<Option<UsbDevice>> {
    let kind = source
        .vendor
        .map(|vendor| (vendor, source.product.unwrap_or_default()));
    let fits = |d: &&UsbDevice| {
        kind.is_none_or(|k| k == (d.vendor, d.product)) && place.is_none_or(|p| p == (d.bus, d.device))
    };
    let found: Vec<&UsbDevice> = devices.iter().filter(fits).collect();
    match (found.as_slice(), kind) {
        ([], _) if required => Err(Error::internal(format!(
            "Did not find USB device {}",
            words(kind, place)
        ))
        .in_area(Area::None)),
        ([], _) => Ok(None),
        ([_, _, ..], Some((vendor, product))) if place.is_none() => {
            let message =
                format!("Multiple USB devices for {vendor:x}:{product:x}, use <address> to specify one");
            Err(Error::new(Code::OperationFailed, message).in_area(Area::None))
        }
        ([first, ..], _) => Ok(Some(**first)),
    }
}

fn words(kind: Option<(u32, u32)>, place: Option<(u32, u32)>) -> String {
    let kind = kind.map(|(vendor, product)| format!("{vendor:04x}:{product:04x}"));
    let place = place.map(|(bus, device)| format!("bus:{bus} device:{device}"));
    kind.into_iter().chain(place).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUSE: UsbDevice = UsbDevice {
        bus: 1,
        device: 4,
        vendor: 0x46d,
        product: 0xc077,
    };
    const STICK: UsbDevice = UsbDevice {
        bus: 2,
        device: 3,
        vendor: 0x781,
        product: 0x5567,
    };
    const OTHER_STICK: UsbDevice = UsbDevice { device: 9, ..STICK };

    #[test]
    fn a_device_is_found_by_what_is_said_of_it() {
        let kind = |d: UsbDevice| HostdevSource {
            vendor: Some(d.vendor),
            product: Some(d.product),
            ..HostdevSource::default()
        };
        let find = |source: &HostdevSource, place, required| {
            let found = usb(&[MOUSE, STICK, OTHER_STICK], source, place, required);
            found.map_err(|error| error.to_string())
        };
        let any = HostdevSource::default();
        assert_eq!(find(&kind(MOUSE), None, true), Ok(Some(MOUSE)));
        assert_eq!(find(&any, Some((2, 9)), true), Ok(Some(OTHER_STICK)));
        assert_eq!(find(&kind(STICK), Some((2, 9)), true), Ok(Some(OTHER_STICK)));
        let several = "operation failed: Multiple USB devices for 781:5567, use <address> to specify one";
        assert_eq!(find(&kind(STICK), None, false), Err(several.into()));
        assert_eq!(find(&any, Some((3, 1)), false), Ok(None));
        for (source, place, words) in [
            (any, Some((3, 1)), "bus:3 device:1"),
            (kind(UsbDevice { product: 1, ..MOUSE }), None, "046d:0001"),
            (kind(MOUSE), Some((3, 1)), "046d:c077 bus:3 device:1"),
        ] {
            assert_eq!(
                find(&source, place, true),
                Err(format!("internal error: Did not find USB device {words}"))
            );
        }
    }
}
