//! Displays and sound.

use crate::devices::{Audio, AudioKind, AudioStream, Graphics, GraphicsKind, ListenKind, YesNo};

pub(super) fn canonical_graphics(graphics: &mut Graphics) {
    use GraphicsKind::{Dbus, Desktop, EglHeadless, Rdp, Sdl, Spice, Vnc};
    let kind = graphics.kind;
    if !matches!(kind, Vnc | Spice | Rdp) {
        clear!(graphics; port, autoport, listen, listens, passwd);
    }
    if kind != Vnc {
        clear!(graphics; websocket, websocket_generated, socket, share_policy, power_control);
    }
    // A socket needs no ports.
    if graphics
        .listens
        .first()
        .is_some_and(|listen| listen.kind == ListenKind::Socket)
    {
        clear!(graphics; websocket, websocket_generated);
    }
    if !matches!(kind, Vnc | Spice) {
        clear!(graphics; keymap, passwd_valid_to, connected);
    }
    if kind != Spice {
        clear!(graphics; tls_port, default_mode, channels, image, jpeg, zlib, playback, streaming,
            mouse, clipboard, filetransfer);
    }
    if kind != Rdp {
        clear!(graphics; replace_user, multi_user, username);
    }
    if kind != Dbus {
        clear!(graphics; p2p, address);
    }
    if !matches!(kind, Sdl | Desktop) {
        clear!(graphics; display, fullscreen);
    }
    if kind != Sdl {
        clear!(graphics; xauth);
    }
    if !matches!(kind, Sdl | Spice | EglHeadless | Dbus) {
        clear!(graphics; gl);
    }
    if kind == Sdl
        && let Some(gl) = &mut graphics.gl
    {
        clear!(gl; rendernode);
    }
    if !matches!(kind, Vnc | Dbus) {
        clear!(graphics; audio);
    }
    graphics.socket = graphics.socket.take().filter(|socket| !socket.is_empty());
    for listen in &mut graphics.listens {
        listen.socket = listen.socket.take().filter(|socket| !socket.is_empty());
        if listen.kind != ListenKind::Socket {
            clear!(listen; socket);
        }
        if listen.kind != ListenKind::Network {
            clear!(listen; network);
        }
        if !matches!(listen.kind, ListenKind::Address | ListenKind::Network) {
            clear!(listen; address);
        }
    }
}

/// Of a back end and both its directions, what its kind knows.
pub(super) fn canonical_audio(audio: &mut Audio) {
    use AudioKind::{Alsa, Coreaudio, File, Jack, Oss, Pipewire, Pulseaudio, Sdl};
    let kind = audio.kind;
    if !matches!(kind, Pulseaudio) {
        clear!(audio; server_name);
    }
    if kind != Pipewire {
        clear!(audio; runtime_dir);
    }
    if kind != File {
        clear!(audio; path);
    }
    if kind != Oss {
        clear!(audio; try_mmap, exclusive, dsp_policy);
    }
    if kind != Sdl {
        clear!(audio; driver);
    }
    let streams = audio.input.iter_mut().chain(&mut audio.output);
    for stream in streams {
        if stream.fixed_settings == Some(YesNo::Yes) {
            stream.settings.get_or_insert_default();
        }
        if !matches!(kind, Alsa | Oss) {
            clear!(stream; dev);
        }
        if !matches!(kind, Coreaudio | Oss | Sdl) {
            clear!(stream; buffer_count);
        }
        if !matches!(kind, Pulseaudio | Pipewire) {
            clear!(stream; name, stream_name, latency);
        }
        if kind != Jack {
            clear!(stream; server_name, client_name, connect_ports, exact_name);
        }
        if kind != Oss {
            clear!(stream; try_poll);
        }
        for number in [&mut stream.buffer_count, &mut stream.latency] {
            *number = number.filter(|number| *number != 0);
        }
    }
    let says = |stream: &AudioStream| *stream != AudioStream::default();
    audio.input = audio.input.take().filter(says);
    audio.output = audio.output.take().filter(says);
}
