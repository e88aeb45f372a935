//! Blocks and options as bytes, little-endian, at the end of a buffer.

/// The most bytes an option's value can have: its length has 16 bits.
const OPTION_LIMIT: usize = u16::MAX as usize;

/// Begins a block and returns where it begins, for [`end_block`].
pub(super) fn begin_block(buffer: &mut Vec<u8>, block_type: u32) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&block_type.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    start
}

/// Ends the block that began at `start`: pads it, and writes its length at both places.
pub(super) fn end_block(buffer: &mut Vec<u8>, start: usize) {
    pad(buffer, start);
    let length = (buffer.len() - start + 4) as u32;
    buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&length.to_le_bytes());
}

/// Adds an option. What does not fit into its 16-bit length is cut: only texts can be so long.
pub(super) fn option(buffer: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(OPTION_LIMIT)];
    buffer.extend_from_slice(&code.to_le_bytes());
    buffer.extend_from_slice(&(value.len() as u16).to_le_bytes());
    buffer.extend_from_slice(value);
    buffer.extend_from_slice(&[0; 3][..padding(value.len())]);
}

/// Adds an option that holds text, cut between two characters if it is too long.
pub(super) fn text_option(buffer: &mut Vec<u8>, code: u16, text: &str) {
    option(buffer, code, &text.as_bytes()[..text.floor_char_boundary(OPTION_LIMIT)]);
}

/// Ends a list of options. The draft: writers MUST, where there are options.
pub(super) fn end_of_options(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&[0; 4]);
}

/// A 64-bit time or count in the order of pcapng time stamps: the upper half first.
pub(super) fn high_low(value: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&((value >> 32) as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(value as u32).to_le_bytes());
    bytes
}

/// How many zero bytes follow `length` bytes up to a multiple of four.
pub(super) const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

fn pad(buffer: &mut Vec<u8>, start: usize) {
    let zeros = padding(buffer.len() - start);
    buffer.extend_from_slice(&[0; 3][..zeros]);
}
