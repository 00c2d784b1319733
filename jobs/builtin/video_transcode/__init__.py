"""The kind `video.transcode`: any usual video in, an MP4 that every browser plays and a poster frame out.

ffmpeg does the work, as a process of its own (`ffmpeg`, `confined`) that gets open files and no names: it can neither
open another file nor call out, whatever it is fed. `containers` decides by the first bytes what a file is read as,
`scan` measures it without decoding, `encode` makes the MP4, `poster` the picture, `handler` joins them to a job.
"""
