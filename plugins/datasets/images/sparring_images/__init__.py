"""Well-known sets of images, from a folder that the user names or by a download that the user asks for."""
