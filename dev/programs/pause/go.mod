module videojob.dev/programs/pause

go 1.26.0

tool videojob.dev/programs/pause
