//! XML to structs and back from one definition: reader, libvirt-style printer.
