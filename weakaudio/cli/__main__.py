from weakaudio.cli import main

main()
