#compdef drover
_drover() {
	local -a out
	out=("${(@f)$("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ $out[1] == :files ]]; then
		_files
		return
	fi
	[[ -z $out[1] ]] && return 1
	_describe drover out
}
if [[ $funcstack[1] == _drover ]]; then
	_drover "$@"
else
	compdef _drover drover
fi
