"""Which codecs are taken: ffmpeg has hundreds of decoders, many of them rare and little tried by hostile files."""

from __future__ import annotations

VIDEO_CODECS = {
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2", "msmpeg4v3", "h263", "flv1",
    "vp6f", "wmv1", "wmv2", "wmv3", "vc1", "theora", "mjpeg", "prores", "dnxhd", "dvvideo", "ffv1", "rawvideo",
}  # fmt: skip
AUDIO_CODECS = {
    "aac", "mp2", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "alac", "dts", "wmav1", "wmav2", "wmapro", "amr_nb",
    "amr_wb", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_u8", "pcm_alaw",
    "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "nellymoser",
}  # fmt: skip
DECODERS_OF_OTHER_NAMES = {
    "libdav1d", "libaom-av1", "mpegvideo", "msmpeg4", "flv", "mp3float", "mp2float", "dca", "amrnb", "amrwb",
}  # fmt: skip
"""Where ffmpeg names a decoder unlike its codec."""
DECODERS = ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS | DECODERS_OF_OTHER_NAMES))
