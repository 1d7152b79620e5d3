"""What every command needs: files that are whole whatever happens, errors in one line."""
